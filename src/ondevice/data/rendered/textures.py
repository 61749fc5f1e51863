"""Procedural patterns: noise, stripes, bricks, cells and their like, seeded.

Knows patterns as float arrays (height, width), 0 to 1. Knows nothing of what wears them.
"""

from __future__ import annotations

import numpy as np

from ondevice.data.rendered.canvas import Floats, Random
from ondevice.errors import BadInput, MissingExtra

KINDS = (
    "plain", "clouds", "speckle", "blobs", "grain", "stripes", "waves", "checks", "dots", "bricks", "cells", "rings",
)  # fmt: skip


def noise(random: Random, height: int, width: int, cell: float, octaves: int = 4) -> Floats:
    """Fractal noise: random grids of `cell` pixels and of half, a quarter, …, each half as strong; 0 to 1."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw pictures") from error
    total = np.zeros((height, width))
    for octave in range(octaves):
        side = max(cell / 2**octave, 1.0)
        rows, columns = int(np.ceil(height / side)) + 3, int(np.ceil(width / side)) + 3
        grid = random.random((rows, columns), np.float32)
        down, right = random.random(2)
        window = (1 + right, 1 + down, 1 + right + width / side, 1 + down + height / side)
        smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, window)
        total += np.asarray(smooth, np.float64) * 0.5**octave
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(high - low, 1e-9))


def texture(random: Random, kind: str, height: int, width: int, cell: float = 8.0) -> Floats:
    """A pattern of one of `KINDS` with a period of about `cell` pixels, in a random direction; 0 to 1.

    Raises BadInput for another kind.
    """
    if kind not in KINDS:
        raise BadInput(f"no texture {kind!r}; there are: {', '.join(KINDS)}")
    if kind == "plain":
        return np.zeros((height, width))
    if kind == "clouds":
        return noise(random, height, width, 2 * cell)
    if kind == "speckle":
        return noise(random, height, width, max(2.0, cell / 4), octaves=2)
    if kind == "blobs":
        return _sharp(noise(random, height, width, 1.5 * cell, octaves=2) - 0.5, 12)
    angle, phase_x, phase_y = random.uniform(0, [2 * np.pi, cell, cell])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    u = x * np.cos(angle) + y * np.sin(angle) + phase_x
    v = y * np.cos(angle) - x * np.sin(angle) + phase_y
    turn = 2 * np.pi / cell
    if kind == "stripes":
        return _sharp(np.sin(turn * u) - random.uniform(-0.6, 0.6), 3)
    if kind == "waves":
        return np.asarray(0.5 + 0.5 * np.sin(turn * u + 2.5 * np.sin(turn * v / 2.3)))
    if kind == "checks":
        return _sharp(np.sin(turn * u) * np.sin(turn * v), 6)
    if kind == "dots":
        return _sharp(np.cos(turn * u) + np.cos(turn * v) - 0.9, 4)
    if kind == "grain":
        return np.asarray(
            0.5 + 0.5 * np.sin(turn * u / 2 + 9 * noise(random, height, width, 2 * cell, octaves=2))
        )
    if kind == "rings":
        return np.asarray(0.5 + 0.5 * np.sin(turn * np.hypot(u - width * 0.4, v - height * 0.4)))
    if kind == "bricks":
        row = np.floor(v / (cell * 0.7))
        across = (u / (1.5 * cell) + 0.5 * (row % 2)) % 1
        return np.where((across < 0.12) | ((v / (cell * 0.7)) % 1 < 0.2), 1.0, 0.0)
    count = int(np.clip(height * width / (2 * cell) ** 2, 6, 80))
    seeds, tones = random.random((count, 2)) * [height, width], random.random(count)
    distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2
    return np.asarray(tones[distance.argmin(axis=2)])


def coloured(pattern: Floats, one: Floats, other: Floats) -> Floats:
    """A picture (height, width, 3) that goes from one colour where the pattern is 0 to another where it is 1."""
    return np.asarray(one + pattern[..., None] * (other - one))


def _sharp(values: Floats, steepness: float) -> Floats:
    return np.asarray(np.clip(0.5 + steepness * values / 2, 0, 1))
