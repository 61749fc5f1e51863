"""What happens to sound on its way to a microphone: noise, rooms, other speakers, level; and its resampling.

Knows samples at 16 kHz. Knows nothing of texts or data sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

RATE = 16000
Floats = npt.NDArray[np.float32]
Noise = Literal["white", "pink", "hum", "rain", "babble"]
NOISES: tuple[Noise, ...] = get_args(Noise)
_TALKERS = 6  # in a babble
_TAPS = 24  # of the resampling filter, on either side, in input samples at unit ratio


def resample(signal: npt.ArrayLike, source: int, target: int) -> Floats:
    """A signal (n,) at another sampling rate (ceil(n * target / source),), by a Hann-windowed sinc.

    What lies above half of the lower rate is filtered out. Raises BadInput for rates below 1.
    """
    samples = _signal(signal)
    if source < 1 or target < 1:
        raise BadInput(f"sampling rates must be positive, not {source} and {target}")
    if source == target:
        return samples
    common = math.gcd(source, target)
    up, down = target // common, source // common
    filters, half = _phases(up, down)
    count = -(-len(samples) * up // down)
    padded = np.pad(samples, half)
    place = np.arange(count) * down
    out = np.empty(count, np.float32)
    for start in range(0, count, 1 << 14):
        block = place[start : start + (1 << 14)]
        windows = padded[(block // up)[:, None] + np.arange(2 * half)]
        out[start : start + (1 << 14)] = np.einsum("nt,nt->n", windows, filters[block % up])
    return out


def noise(kind: Noise, length: int, rng: np.random.Generator, speech: Sequence[Any] = ()) -> Floats:
    """Noise of unit power, (length,).

    white; pink: power falling as 1/f; hum: mains and its harmonics, with a hiss; rain: drops over a hiss;
    babble: six random pieces of `speech` (signals at 16 kHz), played backwards so that no word can be understood.
    Raises BadInput for another kind, and for babble without speech.
    """
    if kind not in NOISES:
        raise BadInput(f"no noise {kind!r}; there are: {', '.join(NOISES)}")
    if length < 1:
        raise BadInput(f"noise of {length} samples; ask for one or more")
    white = rng.standard_normal(length)
    if kind == "white":
        made = white
    elif kind == "pink":
        made = _shaped(white, lambda hertz: 1 / np.sqrt(np.maximum(hertz, 20.0)))
    elif kind == "hum":
        mains, time = rng.choice([50.0, 60.0]) * (1 + 0.002 * rng.standard_normal()), np.arange(length) / RATE
        made = 0.1 * white
        for harmonic in range(1, 13):
            strength, phase = rng.uniform(0.2, 1) / harmonic**0.8, rng.uniform(0, 2 * math.pi)
            made += strength * np.sin(2 * math.pi * mains * harmonic * time + phase)
    elif kind == "rain":
        made = 0.15 * _shaped(white, lambda hertz: np.sqrt(hertz / 4000))
        drop = np.arange(160) / RATE
        for start in rng.integers(0, length, rng.poisson(150 * length / RATE)):
            pitch, loud = rng.uniform(1500, 6000), rng.lognormal(0, 0.7)
            ring = loud * np.exp(-drop * rng.uniform(400, 1500)) * np.sin(2 * math.pi * pitch * drop)
            made[start : start + len(ring)] += ring[: length - start]
    else:
        if not len(speech):
            raise BadInput("babble is made of speech; hand in signals")
        made = np.zeros(length)
        for _ in range(_TALKERS):
            piece = _signal(speech[int(rng.integers(len(speech)))])[::-1]
            piece = np.roll(np.resize(piece, length), int(rng.integers(length)))
            made += piece / max(float(np.sqrt(np.mean(piece**2))), 1e-9)
    made = made - made.mean()
    return np.asarray(made / max(float(np.sqrt(np.mean(made**2))), 1e-9), np.float32)


def mix(signal: npt.ArrayLike, other: npt.ArrayLike, decibels: float) -> Floats:
    """signal + other, the other scaled so that their powers differ by so many dB (signal-to-noise, or -interference).

    Both (n,); the power is that of the whole signal, its pauses included. Raises BadInput for other lengths,
    silence and a figure that is not finite.
    """
    first, second = _signal(signal), _signal(other)
    if first.shape != second.shape:
        raise BadInput(f"{len(first)} and {len(second)} samples cannot be mixed; cut or repeat one")
    powers = [float(np.mean(part.astype(np.float64) ** 2)) for part in (first, second)]
    if not min(powers) > 0 or not math.isfinite(decibels):
        raise BadInput("a mix at a set ratio needs two signals that are not silent, and a finite ratio")
    return np.asarray(first + second * math.sqrt(powers[0] / powers[1] / 10 ** (decibels / 10)), np.float32)


def room_response(rng: np.random.Generator, reverberation: float) -> Floats:
    """An impulse response: the direct sound, a few early reflections and a tail that decays by 60 dB.

    reverberation: seconds until then (RT60). A statistical model (Polack 1988), not a geometry.
    """
    if not 0.05 <= reverberation <= 3:
        raise BadInput(f"a reverberation of {reverberation} s; rooms have 0.05 to 3")
    time = np.arange(int(reverberation * RATE)) / RATE
    tail = rng.standard_normal(len(time)) * np.exp(-math.log(1000) * time / reverberation)
    response = tail * rng.uniform(0.01, 0.05)
    response[: int(0.004 * RATE)] = 0
    for delay in rng.uniform(0.003, 0.04, 6):
        response[min(int(delay * RATE), len(time) - 1)] += rng.choice([-1, 1]) * rng.uniform(0.1, 0.4)
    response[0] = 1.0
    return response.astype(np.float32)


def in_room(signal: npt.ArrayLike, response: npt.ArrayLike) -> Floats:
    """A signal (n,) as heard through an impulse response, (n,): what rings on after its end is cut."""
    samples, impulse = _signal(signal), _signal(response)
    size = 1 << (len(samples) + len(impulse) - 2).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(impulse, size)
    return np.asarray(np.fft.irfft(spectrum, size)[: len(samples)], np.float32)


def at_level(signal: npt.ArrayLike, decibels: float) -> npt.NDArray[np.int16]:
    """int16 samples whose mean power is so many dB below full scale; peaks beyond it are clipped."""
    samples = _signal(signal).astype(np.float64)
    power = float(np.sqrt(np.mean(samples**2)))
    if not power > 0:
        raise BadInput("silence cannot be brought to a level")
    loud = samples * (32768 * 10 ** (decibels / 20) / power)
    return np.clip(np.round(loud), -32768, 32767).astype(np.int16)


def corrupt(
    signal: npt.ArrayLike,
    rng: np.random.Generator,
    snr: tuple[float, float] | None,
    *,
    room: float = 0.0,
    kinds: Sequence[Noise] = NOISES,
    speech: Sequence[Any] = (),
) -> npt.NDArray[np.int16]:
    """A signal as a device hears it: with probability `room` in a room of 0.15 to 0.5 s, with a noise of a drawn
    kind at an SNR in dB drawn from `snr` (None: no noise), at a level of -30 to -16 dB."""
    heard = _signal(signal)
    if rng.random() < room:
        heard = in_room(heard, room_response(rng, rng.uniform(0.15, 0.5)))
    if snr is not None:
        kind = kinds[int(rng.integers(len(kinds)))]
        heard = mix(heard, noise(kind, len(heard), rng, speech), rng.uniform(*snr))
    return at_level(heard, rng.uniform(-30, -16))


def _shaped(white: Any, gain: Any) -> Any:
    spectrum = np.fft.rfft(white)
    spectrum *= gain(np.fft.rfftfreq(len(white), 1 / RATE))
    return np.fft.irfft(spectrum, len(white))


def _signal(signal: npt.ArrayLike) -> Floats:
    samples = np.asarray(signal, np.float32)
    if samples.ndim != 1 or not len(samples):
        raise BadInput(f"a signal is (samples,), not of shape {samples.shape}; take one channel")
    if not np.isfinite(samples).all():
        raise BadInput("the signal has samples that are not finite")
    return samples


@lru_cache(maxsize=8)
def _phases(up: int, down: int) -> tuple[Floats, int]:
    """The filter of each phase (up, 2 * half), and half its length in input samples."""
    cutoff = min(1.0, up / down)
    half = math.ceil(_TAPS / cutoff)
    # Output m lies at input position m * down / up: phase (m * down) % up, window from floor - half.
    distance = np.arange(2 * half)[None] - half - np.arange(up)[:, None] / up
    window = np.where(np.abs(distance) < half, 0.5 + 0.5 * np.cos(np.pi * distance / half), 0.0)
    filters = cutoff * np.sinc(cutoff * distance) * window
    return (filters / filters.sum(axis=1, keepdims=True)).astype(np.float32), half
