from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct

from ondevice.data.speech.features import HOP, SIZE, WINDOW, cepstra, log_mel, mel_bands
from ondevice.errors import BadInput

SOUND = (np.random.default_rng(0).standard_normal(4000) * 3000).astype(np.int16)


def test_frames_are_those_of_a_brute_force_transform():
    bands = 40
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    matrix = np.exp(-2j * np.pi * np.outer(np.arange(SIZE // 2 + 1), np.arange(WINDOW)) / SIZE)
    got = log_mel(SOUND, bands)
    assert got.shape == (1 + (4000 - WINDOW) // HOP, bands)
    for frame in (0, 7, len(got) - 1):
        piece = SOUND[frame * HOP : frame * HOP + WINDOW] / 32768.0 * window
        power = np.abs(matrix @ piece) ** 2 / WINDOW
        assert np.allclose(got[frame], np.log(mel_bands(bands) @ power + 1e-8), atol=1e-3)


def test_a_tone_lights_the_band_that_holds_it():
    for hertz in (300, 1000, 4000):
        tone = (8000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)).astype(np.int16)
        band = int(log_mel(tone, 80).mean(axis=0).argmax())
        assert mel_bands(80)[band, round(hertz / 16000 * SIZE)] > 0


def test_twice_as_loud_is_six_decibels_more():
    louder = log_mel((SOUND.astype(np.int32) * 2).clip(-32768, 32767).astype(np.int16))
    assert np.median(louder - log_mel(SOUND)) == pytest.approx(np.log(4), abs=0.01)


def test_a_frame_depends_on_its_own_samples_alone():
    assert np.allclose(log_mel(SOUND)[:5], log_mel(SOUND[: WINDOW + 4 * HOP]), atol=1e-4)


def test_silence_and_short_sound_are_finite():
    for samples in (np.zeros(1000, np.int16), np.zeros(3, np.int16)):
        assert np.isfinite(log_mel(samples)).all()
    assert log_mel(np.ones(3, np.int16)).shape == (1, 80)


def test_cepstra_are_scipys_transform():
    energies = log_mel(SOUND, 40)
    expected = dct(energies, type=2, axis=1, norm="ortho")[:, :13]
    assert np.allclose(cepstra(energies, 13), expected, atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: log_mel(SOUND.astype(np.float32)),
        lambda: log_mel(SOUND.reshape(2, -1)),
        lambda: log_mel(SOUND, 0),
        lambda: cepstra(log_mel(SOUND, 20), 21),
    ],
)
def test_bad_input_is_refused(wrong):
    with pytest.raises(BadInput):
        wrong()
