from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.data.speech.sound import (
    NOISES,
    RATE,
    at_level,
    corrupt,
    in_room,
    mix,
    noise,
    resample,
    room_response,
)
from ondevice.errors import BadInput

TONE = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)


@pytest.mark.parametrize(("source", "target"), [(22050, 16000), (16000, 8000), (8000, 16000), (48000, 16000)])
def test_a_resampled_tone_is_the_tone_at_the_other_rate(source, target):
    tone = np.sin(2 * np.pi * 1000 * np.arange(source // 2) / source)
    expected = np.sin(2 * np.pi * 1000 * np.arange(target // 2) / target)
    got = resample(tone, source, target)
    assert got.shape == expected.shape
    assert np.abs(got - expected)[200:-200].max() < 1e-3


def test_resampling_filters_what_the_lower_rate_cannot_hold():
    high = np.sin(2 * np.pi * 9500 * np.arange(22050) / 22050)
    assert np.abs(resample(high, 22050, 16000))[200:-200].max() < 0.02


@settings(max_examples=25, deadline=None)
@given(st.floats(-10, 40), st.sampled_from([kind for kind in NOISES if kind != "babble"]), st.integers(0, 9))
def test_noise_is_mixed_at_the_ratio_asked(decibels, kind, seed):
    added = noise(kind, RATE, np.random.default_rng(seed))
    mixed = mix(TONE, added, decibels).astype(np.float64)
    ratio = 10 * np.log10(np.mean(TONE.astype(np.float64) ** 2) / np.mean((mixed - TONE) ** 2))
    assert ratio == pytest.approx(decibels, abs=0.05)


@pytest.mark.parametrize("kind", NOISES)
def test_noise_has_unit_power(kind):
    made = noise(kind, RATE, np.random.default_rng(0), [TONE, TONE[::2]])
    assert made.shape == (RATE,)
    assert np.mean(made.astype(np.float64) ** 2) == pytest.approx(1, rel=1e-4)


def test_pink_noise_has_as_much_power_in_every_octave():
    spectrum = np.abs(np.fft.rfft(noise("pink", 1 << 18, np.random.default_rng(0)))) ** 2
    hertz = np.fft.rfftfreq(1 << 18, 1 / RATE)
    octaves = [spectrum[(hertz >= low) & (hertz < 2 * low)].sum() for low in (125, 500, 2000)]
    assert max(octaves) < 1.15 * min(octaves)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.0])
def test_a_room_decays_by_sixty_decibels_in_its_time(seconds):
    response = room_response(np.random.default_rng(0), seconds).astype(np.float64)
    tail = response[int(0.05 * RATE) :]
    energy = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1])  # Schroeder's backward integration
    end = int(0.6 * len(tail))
    slope = np.polyfit(np.arange(end) / RATE, energy[:end], 1)[0]
    assert -60 / slope == pytest.approx(seconds, rel=0.15)


def test_a_room_is_a_convolution():
    response = room_response(np.random.default_rng(1), 0.1)
    assert np.allclose(in_room(TONE[:3000], response), np.convolve(TONE[:3000], response)[:3000], atol=1e-4)


@given(st.floats(-60, -12))
@settings(max_examples=20, deadline=None)
def test_a_level_is_the_level_asked(decibels):
    power = np.mean((at_level(TONE, decibels) / 32768.0) ** 2)
    assert 10 * np.log10(power) == pytest.approx(decibels, abs=0.2)


def test_corruption_follows_its_generator():
    once, again, other = (
        corrupt(TONE, np.random.default_rng(seed), (5, 20), room=0.5, speech=[TONE]) for seed in (3, 3, 4)
    )
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert once.dtype == np.int16


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: resample(np.zeros((2, 9)), 8000, 16000),
        lambda: resample([1.0, np.nan], 8000, 16000),
        lambda: resample([1.0], 0, 16000),
        lambda: noise("traffic", 9, np.random.default_rng(0)),
        lambda: noise("babble", 9, np.random.default_rng(0)),
        lambda: noise("white", 0, np.random.default_rng(0)),
        lambda: mix(TONE, TONE[1:], 5),
        lambda: mix(TONE, np.zeros(RATE), 5),
        lambda: mix(TONE, TONE, float("nan")),
        lambda: at_level(np.zeros(9), -20),
        lambda: room_response(np.random.default_rng(0), 9),
    ],
)
def test_bad_input_is_refused(wrong):
    with pytest.raises(BadInput):
        wrong()
