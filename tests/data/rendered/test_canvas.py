from __future__ import annotations

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.data.rendered.canvas import (
    Pose,
    blur,
    box,
    coverage,
    ellipse,
    expose,
    hsv,
    jitter,
    light,
    over,
    stroke,
)
from ondevice.data.rendered.textures import KINDS, coloured, noise, texture
from ondevice.errors import BadInput


@settings(max_examples=20, deadline=None)
@given(st.floats(20, 30), st.floats(20, 30), st.floats(4, 12), st.floats(4, 12))
def test_an_ellipse_covers_its_area_about_its_centre(x: float, y: float, across: float, down: float) -> None:
    cover = coverage([ellipse(x, y, across, down)], 50, 50).astype(np.float64)
    assert cover.sum() == pytest.approx(np.pi * across * down, rel=0.12)
    rows, columns = np.mgrid[:50, :50] + 0.5
    assert (cover * columns).sum() / cover.sum() == pytest.approx(x, abs=0.25)
    assert (cover * rows).sum() / cover.sum() == pytest.approx(y, abs=0.25)


def test_a_pose_turns_clockwise_and_flips() -> None:
    right = [(1.0, 0.0)]
    np.testing.assert_allclose(Pose(10, 20, 5).apply(right), [(15, 20)])
    np.testing.assert_allclose(Pose(10, 20, 5, angle=np.pi / 2).apply(right), [(10, 25)])
    np.testing.assert_allclose(Pose(10, 20, 5, flip=True).apply(right), [(5, 20)])
    stretched = Pose(0, 0, 3, stretch=4.0).apply([(1, 1)])
    np.testing.assert_allclose(stretched, [(6, 1.5)])


def test_a_stroke_is_as_long_and_wide_as_said() -> None:
    cover = coverage(stroke([(10, 10), (30, 10)], 4), 20, 40)
    assert cover.sum() == pytest.approx(20 * 4 + np.pi * 4, rel=0.08)
    assert coverage([box(2, 3, 16, 25)], 30, 30).sum() == pytest.approx(14 * 22, rel=0.04)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_hsv_is_that_of_the_standard_library(hue: float, saturation: float, value: float) -> None:
    np.testing.assert_allclose(
        hsv(hue, saturation, value), colorsys.hsv_to_rgb(hue, saturation, value), atol=1e-9
    )


def test_paint_covers_by_its_share() -> None:
    picture = np.zeros((2, 2, 3))
    over(picture, [[1, 0.5], [0, 0]], (1.0, 0.5, 0.0))
    np.testing.assert_allclose(picture[0], [(1, 0.5, 0), (0.5, 0.25, 0)])
    assert not picture[1].any()


def test_blur_is_scipys() -> None:
    from scipy.ndimage import gaussian_filter

    picture = np.random.default_rng(0).random((20, 24, 3))
    expected = gaussian_filter(picture, (1.3, 1.3, 0), mode="nearest", truncate=4 / 1.3)
    np.testing.assert_allclose(blur(picture, 1.3), expected, atol=2e-3)


def test_noise_of_the_sensor_has_the_spread_that_was_asked() -> None:
    recorded = expose(np.random.default_rng(0), np.full((200, 200, 3), 0.5), 0.04)
    assert recorded.std() / 255 == pytest.approx(0.04, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_textures_are_seeded_and_in_range(kind: str) -> None:
    one, same, other = (texture(np.random.default_rng(seed), kind, 40, 56, 8.0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (40, 56)
    assert one.min() >= 0
    assert one.max() <= 1
    if kind != "plain":
        assert np.abs(one - other).mean() > 0.05
        assert one.std() > 0.05


def test_coarser_noise_changes_slower() -> None:
    rough = [np.abs(np.diff(noise(np.random.default_rng(0), 64, 64, cell, 1))).mean() for cell in (2, 8, 32)]
    assert rough[0] > rough[1] > rough[2]


def test_light_and_colours_stay_in_range() -> None:
    random = np.random.default_rng(0)
    lit = light(random, 10, 12, 0.5)
    assert lit.shape == (10, 12, 1)
    assert 0.3 < lit.min() < lit.max() < 1.9
    other = jitter(random, coloured(noise(random, 10, 12, 4), np.zeros(3), np.ones(3)), 1.0)
    assert 0 <= other.min() <= other.max() <= 1


def test_an_unknown_texture_is_refused() -> None:
    with pytest.raises(BadInput, match="no texture 'tweed'"):
        texture(np.random.default_rng(0), "tweed", 4, 4)
