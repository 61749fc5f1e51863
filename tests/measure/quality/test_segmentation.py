"""Masks against scikit-learn, SciPy's distance transform and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.segmentation import (
    class_iou,
    confusion,
    contour_accuracy,
    dice,
    j_and_f,
    mean_iou,
    region_similarity,
)


def masks(seed: int, classes: int = 4, shape: tuple[int, ...] = (3, 12, 17)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, shape)
    said = np.where(random.random(shape) < 0.6, truth, random.integers(0, classes, shape))
    return said, truth


def blobs(seed: int) -> np.ndarray:
    """Discs that overlap: (4, 60, 80)."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:60, :80]
    frames = np.zeros((4, 60, 80), bool)
    for frame in frames:
        for _ in range(3):
            y, x, radius = random.integers(0, 60), random.integers(0, 80), random.integers(3, 15)
            frame |= (down - y) ** 2 + (across - x) ** 2 < radius**2
    return frames


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    said, truth = masks(seed)
    expected = metrics.jaccard_score(truth.ravel(), said.ravel(), average=None)
    np.testing.assert_allclose(class_iou(confusion(said, truth, 4)), expected)
    np.testing.assert_array_equal(
        confusion(said, truth, 4), metrics.confusion_matrix(truth.ravel(), said.ravel())
    )
    assert mean_iou(said, truth, 4) == pytest.approx(expected.mean())
    a, b = said == 1, truth == 1
    for row in range(3):
        assert dice(a, b)[row] == pytest.approx(metrics.f1_score(b[row].ravel(), a[row].ravel()))
        assert region_similarity(a, b)[row] == pytest.approx(
            metrics.jaccard_score(b[row].ravel(), a[row].ravel())
        )


def test_ignored_and_absent_classes() -> None:
    truth = np.array([[0, 0, 1, 255]])
    assert mean_iou(np.array([[0, 0, 1, 7]]), truth, 8, ignore=255) == 1
    assert np.isnan(class_iou(confusion(np.zeros(3, int), np.zeros(3, int), 2))[1])
    with pytest.raises(BadInput, match="ignored"):
        mean_iou(np.zeros(3, int), np.full(3, 9), 2, ignore=9)


@given(st.integers(0, 10**6))
def test_symmetry_and_range(seed: int) -> None:
    said, truth = masks(seed, shape=(2, 5, 6))
    for measure in (dice, region_similarity):
        value = measure(said == 1, truth == 1)
        np.testing.assert_array_equal(value, measure(truth == 1, said == 1))
        assert ((value >= 0) & (value <= 1)).all()
    assert mean_iou(said, truth, 4) == pytest.approx(mean_iou(truth, said, 4))
    assert mean_iou(truth, truth, 4) == 1


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([0.008, 0.02, 0.05]))
def test_contours_against_the_distance_transform(seed: int, tolerance: float) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    a, b = blobs(seed), blobs(seed + 1)

    def contour(mask: np.ndarray) -> np.ndarray:
        edge = np.zeros(mask.shape, bool)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                near = mask[y : y + 2, x : x + 2]
                edge[y, x] = near.min() != near.max()
        return edge

    radius = np.ceil(tolerance * 100)  # the diagonal of 60 x 80
    for frame in range(2):
        said, right = contour(a[frame]), contour(b[frame])
        precision = (ndimage.distance_transform_edt(~right)[said] <= radius).mean()
        recall = (ndimage.distance_transform_edt(~said)[right] <= radius).mean()
        expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        assert contour_accuracy(a, b, tolerance)[frame] == pytest.approx(expected)


def test_contour_growth_against_scikit_image() -> None:
    morphology = pytest.importorskip("skimage.morphology")
    a, b = blobs(1), blobs(2)
    edges = [np.pad(m[0], ((0, 1), (0, 1)), mode="edge") for m in (a, b)]
    edges = [
        (m[:-1, :-1] != m[:-1, 1:]) | (m[:-1, :-1] != m[1:, :-1]) | (m[:-1, :-1] != m[1:, 1:]) for m in edges
    ]
    wide = [morphology.dilation(m, morphology.disk(3)) for m in edges]
    precision, recall = wide[1][edges[0]].mean(), wide[0][edges[1]].mean()
    expected = 2 * precision * recall / (precision + recall)
    assert contour_accuracy(a, b, 0.03)[0] == pytest.approx(expected)


def test_video_objects_extremes() -> None:
    truth, empty = blobs(0), np.zeros((4, 60, 80), bool)
    assert j_and_f(truth, truth) == 1
    assert j_and_f(empty, empty) == 1
    assert j_and_f(empty, truth) == 0
    assert j_and_f(truth, empty) == 0
    shifted = np.roll(truth, 1, axis=2)
    assert 0.5 < j_and_f(shifted, truth) < 1
    assert contour_accuracy(shifted, truth)[0] > region_similarity(shifted, truth)[0]  # a shift of one pixel


def test_bad_input() -> None:
    for call in (
        lambda: confusion(np.zeros(3), np.zeros(3, int), 2),
        lambda: confusion(np.zeros(3, int), np.zeros(4, int), 2),
        lambda: confusion(np.full(3, 2), np.zeros(3, int), 2),
        lambda: mean_iou(np.zeros(3, int), np.full(3, -1), 2),
        lambda: dice(np.zeros(3), np.zeros(3)),
        lambda: contour_accuracy(np.zeros((2, 3)), np.zeros((2, 3))),
        lambda: contour_accuracy(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), 0),
        lambda: j_and_f(np.zeros((1, 4, 4)), np.zeros((2, 4, 4))),
    ):
        with pytest.raises(BadInput):
            call()
