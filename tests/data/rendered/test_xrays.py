"""Radiographs: repeatable, patients and devices apart, findings where the masks say."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import xrays
from ondevice.errors import BadInput


@pytest.fixture(scope="module")
def films() -> xrays.DataSet:
    return xrays.make("train", 120, size=64)


def test_same_seed_same_set_other_seed_another(films: xrays.DataSet) -> None:
    assert xrays.make("train", 5).fingerprint() == xrays.make("train", 5).fingerprint()
    assert xrays.make("train", 5, seed=1).fingerprint() != xrays.make("train", 5).fingerprint()
    assert films["images"].shape == (120, 64, 64, 1)


def test_train_and_test_have_other_patients_and_devices(films: xrays.DataSet) -> None:
    test = xrays.make("test", 12)
    assert not set(films.facts["devices"]) & set(test.facts["devices"])
    low, high = films.facts["patients"]
    assert ((films["patients"] >= low) & (films["patients"] < high)).all()
    assert (test["patients"] >= high).all()
    assert len(set(films["patients"])) == 120


def test_every_finding_occurs_with_a_place_and_only_then(films: xrays.DataSet) -> None:
    findings, masks = films["findings"].astype(bool), films["masks"]
    there = np.stack([(masks >> bit & 1).any(axis=(1, 2)) for bit in range(8)], axis=1)
    np.testing.assert_array_equal(there, findings)
    assert (findings.sum(axis=0) >= 5).all()
    assert 0.15 < (~findings.any(axis=1)).mean() < 0.6
    np.testing.assert_array_equal(films["labels"], findings.any(axis=1))


def test_findings_change_the_picture_where_they_lie(films: xrays.DataSet) -> None:
    """Against the mean of the films without that finding: shadows are brighter, free air is darker."""
    light = films["images"][..., 0].astype(float)
    light = light - light.mean(axis=(1, 2), keepdims=True)
    for name, sign in (
        ("effusion", 1),
        ("consolidation", 1),
        ("oedema", 1),
        ("cardiomegaly", 1),
        ("pneumothorax", -1),
    ):
        bit = films.classes.index(name)
        without = light[films["findings"][:, bit] == 0].mean(axis=0)
        inside = (films["masks"] >> bit & 1).astype(bool)
        change = [
            (light[row] - without)[inside[row]].mean() for row in np.flatnonzero(films["findings"][:, bit])
        ]
        assert sign * np.mean(change) > 4, name


def test_subgroups_are_imbalanced_in_training_only(films: xrays.DataSet) -> None:
    assert 0.55 < films["sex"].mean() < 0.85
    assert 0.2 < films["old"].mean() < 0.5


def test_a_sample_is_drawn_beside_its_truth(films: xrays.DataSet) -> None:
    row = int(np.flatnonzero(films["findings"].any(axis=1))[0])
    drawn = xrays.draw(films, row)
    np.testing.assert_array_equal(drawn[:, :64, 0], films["images"][row, ..., 0])
    assert (drawn[:, :64] != drawn[:, 64:]).any()


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="neither"):
        xrays.make("both", 1)
    with pytest.raises(BadInput, match="1 or more"):
        xrays.make("train", 0)
    with pytest.raises(BadInput, match="64"):
        xrays.make("train", 1, size=32)
