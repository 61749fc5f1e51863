"""Bundled data: what comes out is what the packages hold, and the splits share no row."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data import samples
from ondevice.errors import BadInput

datasets = pytest.importorskip("sklearn.datasets")
pictures = pytest.importorskip("skimage.data")


@pytest.mark.parametrize("name", samples.NAMES)
def test_same_seed_same_rows_other_seed_another_order(name: str) -> None:
    sets = [samples.make("train", 20, name=name, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]
    assert samples.draw(samples.make("test", 3, name=name), 2).shape[2] == 3


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "wine", "iris", "diabetes", "faces"])
def test_the_splits_share_no_row_and_leave_none_out(name: str) -> None:
    train, test = samples.make("train", name=name), samples.make("test", name=name)
    key = "images" if "images" in train.arrays else "features"
    rows = [{row.tobytes() for row in each[key]} for each in (train, test)]
    assert not rows[0] & rows[1]
    total = {"digits": 1797, "breast-cancer": 569, "wine": 178, "iris": 150, "diabetes": 442, "faces": 200}[
        name
    ]
    assert len(train) + len(test) == total
    assert 0.6 < len(train) / total < 0.8
    if "labels" in train.arrays:
        for each in (train, test):
            assert set(each["labels"]) == set(range(len(each.classes)))


def test_rows_are_those_of_scikit_learn() -> None:
    wine = datasets.load_wine()
    ours = samples.make("train", name="wine", seed=3)
    where = {row.tobytes(): label for row, label in zip(wine.data, wine.target)}
    assert [where[row.tobytes()] for row in ours["features"]] == ours["labels"].tolist()
    assert ours.facts["features"] == wine.feature_names
    digits = samples.make("test", name="digits")
    assert digits["images"].shape[1:] == (8, 8, 1)
    assert digits["images"].max() == 255


def test_windows_come_from_their_half_and_their_photograph() -> None:
    grass = pictures.grass()
    for split, part in (("train", grass[:, :256]), ("test", grass[:, 256:])):
        window = samples.make(split, 3, name="textures", size=32)["images"][1, ..., 0]
        places = np.argwhere(part[: 512 - 31, : 256 - 31] == window[0, 0])
        assert any((part[y : y + 32, x : x + 32] == window).all() for y, x in places)
    assert not set(samples.PHOTOGRAPHS["train"]) & set(samples.PHOTOGRAPHS["test"])
    assert samples.make("train", 12, name="photographs", size=48)["images"].shape == (12, 48, 48, 3)


def test_bad_input() -> None:
    for call in (
        lambda: samples.make("train", name="mnist"),
        lambda: samples.make("dev", name="wine"),
        lambda: samples.make("train", 0),
        lambda: samples.make("train", 1, name="textures", size=400),
    ):
        with pytest.raises(BadInput):
            call()
    with pytest.raises(BadInput, match=r"wine has \d+ rows"):
        samples.make("train", 1000, name="wine")
