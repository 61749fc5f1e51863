"""What networks hear: log-mel energies and cepstra of sound at 16 kHz, in NumPy.

Knows samples and frames. Knows nothing of data sets or networks.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ondevice.data.speech.sound import RATE
from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]
WINDOW, HOP, SIZE = 400, 160, 512  # samples: 25 ms every 10 ms, padded to a power of two
_FLOOR = 1e-8  # of power; int16's own rounding noise lies below


def log_mel(samples: npt.NDArray[np.int16], bands: int = 80) -> Floats:
    """ln of the power in mel bands, (frames, bands): frames of 25 ms every 10 ms, 1 + (n - 400) // 160 of them.

    samples: int16 (n,) at 16 kHz; what is shorter than a window is padded with zeros. Frames are not centred on
    their time (a streaming network can make the same ones), windowed by Hann, and transformed with 512 points.
    Bands are triangles of unit height, evenly spaced from 20 to 7600 Hz on O'Shaughnessy's mel scale,
    2595 log10(1 + f / 700). Full scale is 1. Raises BadInput for other samples.
    """
    samples = np.asarray(samples)
    if samples.dtype != np.int16 or samples.ndim != 1:
        raise BadInput(f"sound is int16 (samples,), not {samples.dtype} {samples.shape}")
    signal = samples.astype(np.float32) / 32768
    if len(signal) < WINDOW:
        signal = np.pad(signal, (0, WINDOW - len(signal)))
    frames = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP] * _window()
    power = np.abs(np.fft.rfft(frames, SIZE)) ** 2 / WINDOW
    return np.log(power @ mel_bands(bands).T + _FLOOR).astype(np.float32)


def cepstra(log_mels: npt.ArrayLike, coefficients: int = 13) -> Floats:
    """Mel-frequency cepstra (frames, coefficients) of log-mel energies (frames, bands): an orthonormal DCT-II.

    Source: Davis and Mermelstein (1980). Raises BadInput for more coefficients than bands.
    """
    energies = np.asarray(log_mels, np.float32)
    bands = energies.shape[-1]
    if energies.ndim != 2 or not 1 <= coefficients <= bands:
        raise BadInput(f"{coefficients} cepstra of energies of shape {energies.shape}; give (frames, bands)")
    angle = np.pi / bands * (np.arange(bands) + 0.5)[:, None] * np.arange(coefficients)
    basis = np.cos(angle) * np.where(np.arange(coefficients) == 0, np.sqrt(1 / bands), np.sqrt(2 / bands))
    return np.asarray(energies @ basis.astype(np.float32), np.float32)


@lru_cache(maxsize=8)
def mel_bands(bands: int) -> Floats:
    """The weight of each frequency bin in each band, (bands, 257)."""
    if not 1 <= bands <= 128:
        raise BadInput(f"{bands} mel bands; ask for 1 to 128")
    edges = 700 * (10 ** (np.linspace(_mel(20.0), _mel(7600.0), bands + 2) / 2595) - 1)
    bins = np.arange(SIZE // 2 + 1) * RATE / SIZE
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


@lru_cache(maxsize=1)
def _window() -> Floats:
    return np.hanning(WINDOW + 1)[:-1].astype(np.float32)
