"""How near a picture is to the one it should be, and a set of pictures to another.

Knows pixels and features. Knows nothing of models: features for the Fréchet distance are handed in. Floating
pictures are in 0..1, unsigned integer ones in 0..255 or 0..65535. One value a picture; the mean is the usual figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.measure.quality.transport import gaussian_w2

Array = npt.NDArray[np.float64]
_LEVELS, _ORIENTATIONS, _WINDOW = 4, 6, 7


def psnr(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Array:
    """Peak signal-to-noise ratio in dB, (n,); infinite where the pictures are the same.

    predicted, truth: (n, height, width, channels) of one type (see the module).
    """
    a, b = _pictures(predicted, truth)
    error = ((a - b) ** 2).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(error))


def ssim(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Array:
    """Structural similarity, (n,), -1..1 (Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13): Gaussian window of
    11 pixels and sigma 1.5, where it fits in the picture; mean over channels.

    predicted, truth: (n, height, width, channels), 11 pixels or more each way.
    """
    a, b = _pictures(predicted, truth)
    if min(a.shape[1:3]) < 11:
        raise BadInput(f"SSIM needs pictures of 11 pixels or more each way, not {a.shape[1]} x {a.shape[2]}")
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    mean_a, mean_b = _blur(a, window), _blur(b, window)
    var_a, var_b = _blur(a * a, window) - mean_a**2, _blur(b * b, window) - mean_b**2
    both = _blur(a * b, window) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    index /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return np.asarray(index.mean(axis=(1, 2, 3)))


def cw_ssim(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Array:
    """Complex-wavelet SSIM, (n,), 0..1: alike in structure, whatever small shift lies between the pictures.

    Of luminance. Complex steerable bands, 4 scales of 6 directions; in each 7 x 7 window of a band
    (2 |sum x conj(y)| + K) / (sum |x|^2 + sum |y|^2 + K), which a common turn of phase leaves alone; mean over
    windows, then over bands (Wang and Simoncelli 2005, eq. 4; Sampat et al. 2009).
    predicted, truth: (n, height, width, 3 or 1), 64 pixels or more each way. Raises BadInput for smaller ones
    and for a true picture of one colour, in which there is no structure to find.
    """
    a, b = _pictures(predicted, truth)
    if min(a.shape[1:3]) < 64:
        raise BadInput(
            f"CW-SSIM needs pictures of 64 pixels or more each way, not {a.shape[1]} x {a.shape[2]}"
        )
    a, b = _luminance(a), _luminance(b)
    if (np.ptp(b, axis=(1, 2)) == 0).any():
        raise BadInput("a true picture has only one colour: there is no structure to compare")
    window = np.ones(_WINDOW)
    total = np.zeros(len(a))
    for x, y in zip(_bands(a), _bands(b)):
        shared = np.abs(_blur((x * y.conj())[..., None], window))
        power = _blur((np.abs(x) ** 2 + np.abs(y) ** 2)[..., None], window)
        floor = 1e-4  # coefficients below about 0.001 of full scale are nothing
        total += ((2 * shared + floor) / (power + floor)).mean(axis=(1, 2, 3))
    return total / (_LEVELS * _ORIENTATIONS)


def variance_of_laplacian(pictures: npt.ArrayLike) -> Array:
    """How sharp a picture is, (n,): the variance of the four-neighbour Laplacian of its luminance in 0..1.

    pictures: (n, height, width, 3 or 1). Fog, blur and low contrast lower it (Pech-Pacheco et al. 2000).
    """
    grey = _luminance(_pictures(pictures, pictures)[0])
    if min(grey.shape[1:]) < 3:
        raise BadInput(f"the Laplacian needs pictures of 3 pixels or more each way, not {grey.shape[1:]}")
    middle = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.asarray((around - 4 * middle).var(axis=(1, 2)))


def frechet_distance(features: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Fréchet distance between two sets of features, fitted by Gaussians: the squared W2 between them. With
    Inception's features this is FID (Heusel et al. 2017, eq. 6).

    features: (n, d). reference: (m, d). Below some d samples the figure is biased upwards: compare only figures
    of equal counts. Raises BadInput for NaN, other shapes and fewer than 2 samples.
    """
    a, b = np.asarray(features, np.float64), np.asarray(reference, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.shape[1] or min(len(a), len(b)) < 2:
        raise BadInput(f"features must be (n, d) and (m, d), 2 rows or more, not {a.shape} and {b.shape}")
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise BadInput("features must be finite")
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (a, b)]
    return gaussian_w2(a.mean(axis=0), covariances[0], b.mean(axis=0), covariances[1]) ** 2


def _pictures(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(predicted), np.asarray(truth)
    if a.shape != b.shape or a.ndim != 4 or not a.size:
        raise BadInput(
            f"pictures must be of one shape (n, height, width, channels), not {a.shape} and {b.shape}"
        )
    if (
        a.dtype.kind != b.dtype.kind
        or a.dtype.kind not in "uf"
        or (a.dtype.kind == "u" and a.dtype != b.dtype)
    ):
        raise BadInput(f"pictures must both be uint8, uint16 or float in 0..1, not {a.dtype} and {b.dtype}")
    peak = float(np.iinfo(a.dtype).max) if a.dtype.kind == "u" else 1.0
    a, b = a.astype(np.float64) / peak, b.astype(np.float64) / peak
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise BadInput("pictures must be finite")
    if b.min() < -0.5 or b.max() > 1.5:
        raise BadInput(
            f"floating pictures must lie in 0..1, not {b.min():g}..{b.max():g}; divide by their peak"
        )
    return a, b


def _luminance(pictures: Array) -> Array:
    if pictures.shape[3] == 1:
        return pictures[..., 0]
    if pictures.shape[3] != 3:
        raise BadInput(f"pictures must have 1 or 3 channels, not {pictures.shape[3]}")
    grey: Array = pictures @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return grey


def _blur(values: npt.NDArray[Any], window: Array) -> npt.NDArray[Any]:
    """Windowed sums down and across, where the window fits; (n, height, width, channels)."""
    for axis in (1, 2):
        size = values.shape[axis] - len(window) + 1
        values = sum(
            weight * values[(slice(None),) * axis + (slice(k, k + size),)] for k, weight in enumerate(window)
        )
    return values


def _bands(pictures: Array) -> list[npt.NDArray[np.complex128]]:
    """Complex steerable bands of pictures (n, height, width), each scale at half the size of the one before.

    A band keeps one octave of frequencies (raised cosine in the logarithm) and one direction (a power of the
    cosine, of the half plane only: this makes it complex), after Portilla and Simoncelli (2000), section 2.1.
    """
    spectrum = np.fft.fftshift(np.fft.fft2(pictures), axes=(1, 2))
    bands = []
    for level in range(_LEVELS):
        height, width = spectrum.shape[1:]
        down, across = np.meshgrid(
            (np.arange(height) - height // 2) / height, (np.arange(width) - width // 2) / width, indexing="ij"
        )
        # in octaves below the finest frequency of this scale
        with np.errstate(divide="ignore"):
            octave = -np.log2(np.hypot(down, across) / 0.5)
        radial = np.cos(np.pi / 2 * np.clip(octave - 1, -1, 1))
        angle = np.arctan2(down, across)
        for k in range(_ORIENTATIONS):
            away = np.angle(np.exp(1j * (angle - np.pi * k / _ORIENTATIONS)))
            toward = np.where(np.abs(away) < np.pi / 2, np.cos(away), 0.0) ** (_ORIENTATIONS - 1)
            kept = spectrum * (radial * toward)
            bands.append(np.fft.ifft2(np.fft.ifftshift(kept, axes=(1, 2))))
        if level < _LEVELS - 1:
            rows, columns = height // 2, width // 2
            top, left = height // 2 - rows // 2, width // 2 - columns // 2
            spectrum = spectrum[:, top : top + rows, left : left + columns] * (
                rows * columns / (height * width)
            )
    return bands
