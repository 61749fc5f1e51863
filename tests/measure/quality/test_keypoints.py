"""Joints against pycocotools."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.keypoints import COCO_SIGMAS, oks, oks_average_precision


def people(seed: int, spread: float = 6.0) -> dict[str, np.ndarray]:
    """12 pictures with 1..3 people each; every person said about twice, some far off."""
    random = np.random.default_rng(seed)
    truth_images = np.repeat(np.arange(12), random.integers(1, 4, 12))
    m = len(truth_images)
    truth = random.random((m, 17, 2)) * 80 + random.random((m, 1, 2)) * 100
    visible = random.random((m, 17)) < 0.7
    visible[:, 0] = True
    of = random.integers(0, m, 2 * m)
    noise = random.standard_normal((2 * m, 17, 2)) * spread * random.random((2 * m, 1, 1))
    return {
        "predicted": truth[of] + noise,
        "scores": random.random(2 * m),
        "images": truth_images[of],
        "truth": truth,
        "visible": visible,
        "area": 2000 + 4000 * random.random(m),
        "truth_images": truth_images,
    }


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_against_pycocotools(seed: int) -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    case = people(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": int(i) + 1, "height": 200, "width": 200} for i in range(12)],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [
                {
                    "id": k + 1,
                    "image_id": int(case["truth_images"][k]) + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": float(case["area"][k]),
                    "bbox": [0, 0, 1, 1],
                    "num_keypoints": int(case["visible"][k].sum()),
                    "keypoints": np.column_stack([case["truth"][k], 2 * case["visible"][k]]).ravel().tolist(),
                }
                for k in range(len(case["truth"]))
            ],
        }
        truth.createIndex()
        said = truth.loadRes(
            [
                {
                    "image_id": int(case["images"][k]) + 1,
                    "category_id": 1,
                    "score": float(case["scores"][k]),
                    "keypoints": np.column_stack([case["predicted"][k], np.ones(17)]).ravel().tolist(),
                }
                for k in range(len(case["predicted"]))
            ]
        )
        judge = cocoeval.COCOeval(truth, said, "keypoints")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
        judge.accumulate()
    expected = judge.eval["precision"][:, :, 0, 0, 0].mean(axis=1)
    np.testing.assert_allclose(oks_average_precision(**case), expected, atol=1e-12)
    assert 0.1 < expected.mean() < 0.95
    table = judge.computeOks(1, 1)  # rows by falling score
    rows = np.flatnonzero(case["images"] == 0)
    rows = rows[np.argsort(-case["scores"][rows], kind="stable")]
    mine = oks(case["predicted"], case["truth"], case["visible"], case["area"])
    if len(rows):
        np.testing.assert_allclose(mine[np.ix_(rows, np.flatnonzero(case["truth_images"] == 0))], table)


@given(st.integers(0, 10**6))
def test_perfect_far_and_between(seed: int) -> None:
    case = people(seed)
    truth, visible, area = case["truth"], case["visible"], case["area"]
    near = oks(truth, truth, visible, area)
    assert np.diag(near) == pytest.approx(1)
    assert ((near >= 0) & (near <= 1)).all()
    assert oks(truth + 1e5, truth, visible, area).max() < 1e-6
    closer, farther = (np.diag(oks(truth + step, truth, visible, area)) for step in (1.0, 3.0))
    assert (closer > farther).all()
    perfect = {**case, "predicted": truth, "scores": area, "images": case["truth_images"]}
    assert oks_average_precision(**perfect).tolist() == [1.0] * 10
    assert oks_average_precision(**{**perfect, "predicted": truth + 1e5}).tolist() == [0.0] * 10


def test_nobody_said_is_zero() -> None:
    case = people(0)
    none = {"predicted": np.zeros((0, 17, 2)), "scores": np.zeros(0), "images": np.zeros(0, int)}
    assert oks_average_precision(**{**case, **none}).tolist() == [0.0] * 10


def test_bad_input() -> None:
    case = people(0)
    for change in (
        {"predicted": case["predicted"][:, :5]},
        {"predicted": np.full_like(case["predicted"], np.nan)},
        {"scores": case["scores"][:3]},
        {"area": 0 * case["area"]},
        {"sigmas": COCO_SIGMAS[:5]},
        {"truth_images": case["truth_images"][:2]},
    ):
        with pytest.raises(BadInput):
            oks_average_precision(**{**case, **change})
    with pytest.raises(BadInput, match="visible joint"):
        oks_average_precision(**{**case, "visible": 0 * case["visible"]})
