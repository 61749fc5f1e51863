"""Smooth fields: their bumps, their spread, and resampling against SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered.fields import fractal, grid, sample, smooth, step


@pytest.mark.parametrize("size", [3.0, 8.0, 20.5])
def test_bumps_have_the_size_asked_for(size: float) -> None:
    fields = np.stack([smooth(np.random.default_rng(k), 200, 160, size) for k in range(8)])
    assert fields.shape == (8, 200, 160)
    assert abs(fields.mean()) < 0.3
    assert 0.55 < fields.std() < 0.85

    def alike(shift: int) -> float:
        return float(np.corrcoef(fields[:, shift:].ravel(), fields[:, : 200 - shift].ravel())[0, 1])

    assert alike(1) > 0.75
    assert abs(alike(int(4 * size))) < 0.25


def test_fractal_has_finer_detail_than_smooth() -> None:
    rough = fractal(np.random.default_rng(0), 100, 100, 30, 5)
    plain = smooth(np.random.default_rng(0), 100, 100, 30)
    assert np.abs(np.diff(rough)).mean() > 1.5 * np.abs(np.diff(plain)).mean()


def test_sampling_against_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = np.random.default_rng(0).random((20, 30))
    down, across = grid(20, 30)
    np.testing.assert_allclose(sample(picture, down, across), picture)
    down, across = down * 0.8 + 1.3, across * 0.9 - 2.2
    expected = ndimage.map_coordinates(picture, [down - 0.5, across - 0.5], order=1, mode="nearest")
    np.testing.assert_allclose(sample(picture, down, across), expected)
    colours = np.stack([picture, 1 - picture], axis=2)
    np.testing.assert_allclose(sample(colours, down, across)[..., 1], 1 - expected)


def test_an_edge_keeps_its_area() -> None:
    down, across = grid(60, 60)
    disc = step(20 - np.hypot(down - 30, across - 30))
    assert disc.sum() == pytest.approx(np.pi * 20**2, rel=0.002)
