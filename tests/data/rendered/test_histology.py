"""Stained tissue: repeatable, patients apart, the mask fits the picture."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import histology
from ondevice.errors import BadInput


@pytest.fixture(scope="module")
def tissue() -> histology.DataSet:
    return histology.make("train", 48)


def test_same_seed_same_set_other_seed_another(tissue: histology.DataSet) -> None:
    again = histology.make("train", 48)
    assert again.fingerprint() == tissue.fingerprint()
    other = histology.make("train", 8, seed=1)
    assert other.fingerprint()["sha256"] != tissue.take(range(8)).fingerprint()["sha256"]
    np.testing.assert_array_equal(other["patients"], tissue["patients"][:8])


def test_train_and_test_have_other_patients(tissue: histology.DataSet) -> None:
    test = histology.make("test", 24)
    assert not set(tissue["patients"]) & set(test["patients"])
    for samples, count in ((tissue, 6), (test, 3)):
        for kind in range(8):  # and every diagnosis has several in each
            assert len(set(samples["patients"][samples["labels"] == kind])) == count
    assert (tissue["tumour"] == (tissue["labels"] >= 4)).all()


def test_the_mask_says_what_the_picture_shows(tissue: histology.DataSet) -> None:
    parts, masks = tissue.facts["parts"], tissue["masks"]
    light = tissue["images"].astype(float)
    nuclei = masks == parts.index("nuclei")
    assert light[nuclei].mean() < light[masks == parts.index("stroma")].mean() - 30
    for row in range(48):  # in every picture, whatever its stain, nuclei are darker in red than the rest
        assert light[row, ..., 0][nuclei[row]].mean() < light[row, ..., 0][~nuclei[row]].mean() - 15
    lumen = masks == parts.index("lumen")
    assert light[lumen].mean() > 200
    mucin = np.isin(tissue["labels"], [histology.CLASSES.index("mucinous carcinoma")])
    assert set(np.unique(masks[~mucin])) <= {0, 1, 2, 4}
    assert (masks[mucin] == parts.index("mucin")).any(axis=(1, 2)).all()


def test_a_sample_is_drawn_in_a_frame(tissue: histology.DataSet) -> None:
    drawn = histology.draw(tissue, 4)
    np.testing.assert_array_equal(drawn[2:-2, 2:-2], tissue["images"][4])
    assert drawn[0, 0, 0] > drawn[0, 0, 1]  # red: malignant


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="validation"):
        histology.make("validation", 4)
    with pytest.raises(BadInput, match="1 or more"):
        histology.make("train", 0)
    with pytest.raises(BadInput, match="48"):
        histology.make("train", 1, size=20)
