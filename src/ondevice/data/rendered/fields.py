"""Smooth random fields, blur and resampling: what textures and organic shapes are made from.

Knows arrays of (height, width) and (height, width, channels). Knows nothing of what they will show.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]


def grid(height: int, width: int) -> tuple[Field, Field]:
    """How far down and across each pixel's centre is, in pixels."""
    down, across = np.mgrid[:height, :width]
    return down + 0.5, across + 0.5


def smooth(random: np.random.Generator, height: int, width: int, size: float) -> Field:
    """Noise with bumps of about `size` pixels, mean near 0 and deviation near 0.7."""
    values = random.standard_normal((int(height / size) + 5, int(width / size) + 5))
    for count, shift in zip(
        (height, width), random.random(2)
    ):  # down, then across: the first axis, then turned
        knot, weights = _spline(count, size, shift)
        values = np.einsum("kn,knc->cn", weights, values[knot + np.arange(4)[:, None]])
    return np.asarray(1.45 * values)


def fractal(random: np.random.Generator, height: int, width: int, size: float, octaves: int = 4) -> Field:
    """Smooth noise of `size` and, at half the height each, of half the size and so on; deviation near 0.7."""
    total, power = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        if size / 2**octave < 1.0:
            break
        total += smooth(random, height, width, size / 2**octave) / 2**octave
        power += 0.25**octave
    return np.asarray(total / np.sqrt(power))


def sample(picture: npt.NDArray[np.floating], down: Field, across: Field) -> Field:
    """The picture between its pixels, bilinear; the border is repeated outwards. down, across: as of `grid`."""
    height, width = picture.shape[:2]
    y, x = np.clip(down - 0.5, 0, height - 1), np.clip(across - 0.5, 0, width - 1)
    top, left = np.minimum(y.astype(int), height - 2), np.minimum(x.astype(int), width - 2)
    y, x = y - top, x - left
    if picture.ndim == 3:
        y, x = y[..., None], x[..., None]
    upper = picture[top, left] * (1 - x) + picture[top, left + 1] * x
    lower = picture[top + 1, left] * (1 - x) + picture[top + 1, left + 1] * x
    return np.asarray(upper * (1 - y) + lower * y)


def step(distance: Field, width: float = 1.0) -> Field:
    """0 outside, 1 inside, with a ramp of `width` pixels where the signed distance crosses 0."""
    return np.asarray(np.clip(distance / width + 0.5, 0.0, 1.0))


def _spline(count: int, size: float, shift: float) -> tuple[npt.NDArray[np.int64], Field]:
    """The first of the four knots that reach each pixel, (count,), and their cubic B-spline weights, (4, count)."""
    place = np.arange(count) / size + shift
    knot = place.astype(np.int64)
    t = place - knot
    return knot, np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / 6
