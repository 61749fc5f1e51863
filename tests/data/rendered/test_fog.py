"""Views in fog: repeatable, sessions apart, the scattering model holds pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import fog
from ondevice.errors import BadInput
from ondevice.measure.quality.image import variance_of_laplacian


@pytest.fixture(scope="module")
def aligned() -> fog.DataSet:
    return fog.make("train", 10, size=64, parallax=False)


def test_same_seed_same_set_other_seed_another() -> None:
    sets = [fog.make("train", 2, size=32, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


def test_train_and_test_have_other_sessions(aligned: fog.DataSet) -> None:
    test = fog.make("test", 3, size=32)
    assert set(range(*aligned.facts["sessions"])).isdisjoint(range(*test.facts["sessions"]))
    assert set(aligned["sessions"]) <= set(range(*aligned.facts["sessions"]))
    assert set(test["sessions"]) <= set(range(*test.facts["sessions"]))


def test_every_pixel_lies_between_the_clear_view_and_the_air(aligned: fog.DataSet) -> None:
    """I = J t + A (1 - t): solved for t, the answer is one t for three channels, smaller the farther away."""
    clear, foggy = aligned["clear"] / 255, aligned["images"] / 255
    air = aligned["air"][:, None, None]
    for row in range(len(aligned)):
        j, i = (clear[row] - air[row]).ravel(), (foggy[row] - air[row]).ravel()
        depth = aligned["depth"][row]
        told = np.abs(clear[row] - air[row]).min(axis=2) > 0.15
        through = ((foggy[row] - air[row]) / (clear[row] - air[row]))[told]
        # noise and 8 bits leave an error of about 0.006 / 0.15
        assert np.abs(through - through.mean(axis=1, keepdims=True)).mean() < 0.03
        expected = np.exp(-aligned["beta"][row] * depth[told])
        # the fog's swaths change the exponent by a factor between 0.3 and 2
        assert (through.mean(axis=1) < expected**0.3 + 0.08).all()
        assert (through.mean(axis=1) > expected**2 - 0.08).all()
        assert np.abs(i).mean() < np.abs(j).mean()


def test_fog_takes_away_sharpness_and_the_sky(aligned: fog.DataSet) -> None:
    assert (variance_of_laplacian(aligned["images"]) < variance_of_laplacian(aligned["clear"])).all()
    sky = aligned["depth"] == aligned.facts["sky"]
    assert 0.05 < sky.mean() < 0.7
    away = np.abs(aligned["images"] / 255 - aligned["air"][:, None, None])[sky]
    assert away.max() < 0.1
    assert aligned["depth"].min() > 1
    near = aligned["depth"][:, -1].mean()
    assert near < 12  # the ground before the camera's feet


def test_the_second_camera_sees_near_things_elsewhere() -> None:
    shifted, aligned = (fog.make("train", 3, size=64, parallax=parallax) for parallax in (True, False))
    for name in ("clear", "depth"):
        np.testing.assert_array_equal(shifted[name][0], aligned[name][0])
    views = [samples["images"][0].astype(int) for samples in (shifted, aligned)]
    edges = [np.abs(np.diff(picture, axis=1)).sum(axis=2) for picture in views]
    near = (aligned["depth"][0, :, 1:] < 25) & (edges[1] > 60)
    assert near.sum() > 10
    assert edges[0][near].mean() < 0.8 * edges[1][near].mean()  # the edges are no longer there
    assert fog.draw(shifted, 1).shape == (64, 192, 3)


def test_bad_input() -> None:
    for call in (
        lambda: fog.make("dev", 1),
        lambda: fog.make("train", 0),
        lambda: fog.make("train", 1, size=8),
    ):
        with pytest.raises(BadInput):
            call()
