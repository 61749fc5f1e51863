"""Scores, identities and boxes against scikit-learn, pycocotools and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.vision import (
    auroc,
    box_iou,
    multilabel_auroc,
    reid_map_cmc,
    tracking_auc,
    tracking_precision,
    true_accept_rate,
    verification_accuracy,
)


def scored(seed: int, count: int = 60, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.4
    truth[:2] = True, False
    scores = truth + random.standard_normal(count)
    return (np.round(scores, 1) if ties else scores), truth


@pytest.mark.parametrize("seed", range(5))
def test_auroc_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truth = scored(seed)
    assert auroc(scores, truth) == pytest.approx(metrics.roc_auc_score(truth, scores))
    table = np.stack([scores, -scores, np.random.default_rng(seed).random(60)], axis=1)
    labels = np.stack([truth, truth, ~truth], axis=1)
    expected = metrics.roc_auc_score(labels, table, average=None)
    np.testing.assert_allclose(multilabel_auroc(table, labels), expected)


@given(st.integers(0, 10**6))
def test_auroc_turned_round_is_one_minus(seed: int) -> None:
    scores, truth = scored(seed)
    assert 0 <= auroc(scores, truth) <= 1
    assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth))
    assert auroc(np.exp(scores), truth) == auroc(scores, truth)
    assert auroc(truth, truth) == 1
    assert auroc(np.zeros(60), truth) == 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 1.0])
def test_true_accept_rate_against_scikit_learn(seed: int, rate: float) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, truth = scored(seed)
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert true_accept_rate(scores, truth, rate) == pytest.approx(true[false <= rate + 1e-12].max())


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_verification_against_brute_force(seed: int, folds: int) -> None:
    scores, truth = scored(seed, 24)
    fold = np.arange(24) % folds
    for k, accuracy in enumerate(verification_accuracy(scores, truth, folds)):
        rest = fold != k if folds > 1 else np.ones(24, bool)
        cuts = np.unique(scores[rest])
        middle = [-np.inf, *((cuts[1:] + cuts[:-1]) / 2), cuts[-1] + 1]
        best = max(middle, key=lambda cut: ((scores[rest] >= cut) == truth[rest]).mean())
        held = fold == k
        assert accuracy == pytest.approx(((scores[held] >= best) == truth[held]).mean())


def test_verification_of_perfect_scores() -> None:
    _, truth = scored(3, 100)
    assert verification_accuracy(truth.astype(float), truth).mean() == 1
    assert true_accept_rate(truth.astype(float), truth, 0.1) == 1


def test_reid_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    query, gallery = random.integers(0, 6, 20), random.integers(0, 6, 80)
    query_camera, gallery_camera = random.integers(0, 3, 20), random.integers(0, 3, 80)
    distance = random.random((20, 80)) + 0.5 * (query[:, None] != gallery)
    query[3] = 99  # nobody in the gallery
    found = reid_map_cmc(distance, query, gallery, query_camera, gallery_camera)
    precisions, first = [], []
    for q in range(20):
        kept = ~((gallery == query[q]) & (gallery_camera == query_camera[q]))
        right = gallery[kept] == query[q]
        if right.any():
            precisions.append(metrics.average_precision_score(right, -distance[q, kept]))
            first.append(int(np.argmax(right[np.argsort(distance[q, kept])])))
    assert found.skipped == 20 - len(first)
    assert found.skipped >= 1
    assert found.mean_average_precision == pytest.approx(np.mean(precisions))
    for k in (1, 5, 10):
        assert found.cmc[k - 1] == pytest.approx(np.mean(np.array(first) < k))
    assert (np.diff(found.cmc) >= 0).all()
    assert found.cmc[-1] == 1


def test_reid_extremes() -> None:
    query, gallery = np.arange(5), np.repeat(np.arange(5), 2)
    cameras = np.zeros(5, int), np.ones(10, int)
    perfect = reid_map_cmc((query[:, None] != gallery).astype(float), query, gallery, *cameras)
    assert perfect.mean_average_precision == 1
    assert perfect.cmc[0] == 1
    silent = reid_map_cmc(np.zeros((5, 10)), query, gallery, *cameras)
    assert silent.mean_average_precision == pytest.approx((1 / 9 + 2 / 10) / 2)
    assert silent.cmc[7] == 0


def boxes(seed: int, count: int = 40) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random.random((count, 2)) * 40, 1 + random.random((count, 2)) * 40], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_box_overlap_against_pycocotools(seed: int) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    a, b = boxes(seed), boxes(seed + 100)
    expected = np.diag(mask.iou(a, b, np.zeros(len(b), np.uint8)))
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-12)
    np.testing.assert_allclose(box_iou(b, a), expected, atol=1e-12)


@given(st.integers(0, 10**6))
def test_tracking_auc_follows_the_mean_overlap(seed: int) -> None:
    a, b = boxes(seed), boxes(seed + 1)
    overlaps = box_iou(a, b)
    curve = [np.mean([overlap > k / 20 for overlap in overlaps]) for k in range(21)]
    assert tracking_auc(a, b) == pytest.approx(np.mean(curve))
    # a step of 1/20 is 21 thresholds over a range of 1: within one step of the integral
    assert abs(tracking_auc(a, b) - overlaps.mean()) <= 0.05


def test_tracking_extremes() -> None:
    truth = boxes(0)
    assert tracking_auc(truth, truth) == pytest.approx(20 / 21)
    assert tracking_auc(truth + np.array([500, 0, 0, 0]), truth) == 0
    assert tracking_precision(truth + np.array([11.9, 16, 0, 0]), truth, 20) == 1
    assert tracking_precision(truth + np.array([12, 17, 0, 0]), truth, 20) == 0


def test_bad_input() -> None:
    scores, truth = scored(0)
    for call in (
        lambda: auroc(scores, np.ones(60)),
        lambda: auroc([np.nan, 1.0], [0, 1]),
        lambda: auroc(scores, truth[:5]),
        lambda: verification_accuracy(scores, truth, 0),
        lambda: verification_accuracy(scores, truth, 31),
        lambda: true_accept_rate(scores, np.ones(60), 0.1),
        lambda: reid_map_cmc([[np.nan]], [1], [1], [0], [1]),
        lambda: reid_map_cmc([[0.0, 1.0]], [1], [1, 2], [0, 0], [1]),
        lambda: box_iou([[0, 0, 1, 1]], [[0, 0, 0, 1]]),
        lambda: box_iou([[0, 0, -1, 1]], [[0, 0, 1, 1]]),
        lambda: tracking_auc([[0, 0, 1]], [[0, 0, 1]]),
        lambda: tracking_precision(np.zeros((0, 4)), np.zeros((0, 4))),
    ):
        with pytest.raises(BadInput):
            call()
    with pytest.raises(BadInput, match="label 1"):
        multilabel_auroc(np.zeros((3, 2)), [[0, 1], [1, 1], [0, 1]])
    with pytest.raises(BadInput, match="at least 1000 pairs"):
        true_accept_rate(scores, truth, 0.001)
    with pytest.raises(BadInput, match="another camera"):
        reid_map_cmc([[0.5]], [1], [1], [0], [0])
