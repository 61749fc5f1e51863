"""Patches at two resolutions: repeatable, contents apart, the kernel is the one that is stated."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import sr_patches
from ondevice.errors import BadInput


def small(split: str = "train", seed: int = 0, scale: int = 4) -> sr_patches.DataSet:
    return sr_patches.make(split, 8, seed=seed, size=48, scale=scale)


def test_same_seed_same_set_other_seed_another() -> None:
    sets = [small(seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


def test_train_and_test_have_other_textures_fonts_and_places() -> None:
    train, test = small().facts, small("test").facts
    for what in ("textures", "fonts"):
        assert set(train[what]).isdisjoint(test[what])
        assert train[what]
        assert test[what]
    assert set(range(*train["places"])).isdisjoint(range(*test["places"]))


def keys(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -1/2."""
    x = np.abs(x)
    return np.where(
        x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0)
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_low_resolution_is_antialiased_bicubic(scale: int) -> None:
    samples = small(scale=scale)
    count = 48 // scale
    centres = (np.arange(count) + 0.5) * scale - 0.5
    weights = keys((np.arange(48)[None] - centres[:, None]) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    for row in range(4):
        expected = np.einsum("ih,jw,hwc->ijc", weights, weights, samples["images"][row].astype(float))
        assert (
            np.abs(np.clip(expected, 0, 255) - samples["low"][row]).max() <= 2
        )  # Pillow rounds after each axis


def test_contents_take_turns_and_have_detail_to_restore() -> None:
    samples = small()
    assert samples["labels"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    blown = samples["low"].repeat(4, axis=1).repeat(4, axis=2)
    assert (np.abs(blown.astype(int) - samples["images"]).mean(axis=(1, 2, 3)) > 0.5).all()
    assert sr_patches.draw(samples, 0).shape == (48, 96, 3)


def test_bad_input() -> None:
    for call in (
        lambda: sr_patches.make("dev", 1),
        lambda: sr_patches.make("train", 0),
        lambda: sr_patches.make("train", 1, size=50, scale=4),
        lambda: sr_patches.make("train", 1, scale=1),
    ):
        with pytest.raises(BadInput):
            call()
