"""Quality of masks: mIoU, Dice, and J&F of video objects.

Knows masks of class numbers or booleans. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Vector = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def confusion(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, classes: int, ignore: int | None = None
) -> npt.NDArray[np.int64]:
    """Pixels by true class (row) and predicted class (column), (classes, classes). Add those of several batches.

    predicted, truth: class numbers of one shape. ignore: a true value that is not judged (255 in Cityscapes).
    """
    said, right = np.asarray(predicted), np.asarray(truth)
    if (
        said.shape != right.shape
        or not said.size
        or said.dtype.kind not in "iub"
        or right.dtype.kind not in "iub"
    ):
        raise BadInput(
            f"masks must be integers of one shape, not {said.dtype}{said.shape}, {right.dtype}{right.shape}"
        )
    judged = np.ones(right.shape, np.bool_) if ignore is None else right != ignore
    a, b = right[judged].astype(np.int64), said[judged].astype(np.int64)
    for name, values in (("true", a), ("predicted", b)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise BadInput(f"{name} classes must lie in 0..{classes - 1}, not {values.min()}..{values.max()}")
    return np.bincount(a * classes + b, minlength=classes * classes).reshape(classes, classes)


def class_iou(table: npt.NDArray[np.int64]) -> Vector:
    """Intersection over union of each class over all pixels of a confusion table, (classes,); NaN for a class
    that is neither there nor predicted."""
    hits = np.diag(table).astype(np.float64)
    union = table.sum(axis=0) + table.sum(axis=1) - hits
    shares: Vector = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    return shares


def mean_iou(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, classes: int, ignore: int | None = None
) -> float:
    """Mean of `class_iou` over the classes that occur, 0..1 (Everingham et al. 2010, PASCAL VOC).

    predicted, truth: class numbers of one shape. Raises BadInput where nothing is left to judge.
    """
    shares = class_iou(confusion(predicted, truth, classes, ignore))
    if np.isnan(shares).all():
        raise BadInput("every pixel is ignored: there is nothing to judge")
    return float(np.nanmean(shares))


def dice(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Vector:
    """Dice coefficient 2|A and B| / (|A| + |B|) of each row, (n,); 1 where both are empty (Dice 1945).

    predicted, truth: (n, …) of booleans.
    """
    a, b = _rows(predicted, truth)
    return _ratio(2 * (a & b).sum(axis=1), a.sum(axis=1) + b.sum(axis=1))


def region_similarity(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Vector:
    """J: intersection over union of each row, (n,); 1 where both are empty. (n, …) of booleans."""
    a, b = _rows(predicted, truth)
    return _ratio((a & b).sum(axis=1), (a | b).sum(axis=1))


def contour_accuracy(predicted: npt.ArrayLike, truth: npt.ArrayLike, tolerance: float = 0.008) -> Vector:
    """F: harmonic mean of precision and recall of each frame's contour pixels, (frames,), 0..1.

    predicted, truth: (frames, height, width) of booleans. A contour pixel is right within `tolerance` of the
    picture's diagonal of the other contour (Perazzi et al. 2016, DAVIS).
    """
    a, b = (np.asarray(masks).astype(np.bool_) for masks in (predicted, truth))
    if a.ndim != 3 or a.shape != b.shape or not a.size:
        raise BadInput(f"masks must be of one shape (frames, height, width), not {a.shape} and {b.shape}")
    if not 0 < tolerance < 1:
        raise BadInput(f"tolerance is a share of the diagonal, between 0 and 1, not {tolerance}")
    radius = int(np.ceil(tolerance * np.hypot(*a.shape[1:])))
    said, right = _contour(a), _contour(b)
    precision = _share(said & _grown(right, radius), said, empty=~_any(right))
    recall = _share(right & _grown(said, radius), right, empty=~_any(said))
    both = precision + recall
    return np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)


def j_and_f(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Mean of J and F over the frames of one object, 0..1. (frames, height, width) of booleans."""
    shapes = np.shape(predicted), np.shape(truth)
    if shapes[0] != shapes[1]:
        raise BadInput(f"masks must be of one shape (frames, height, width), not {shapes[0]} and {shapes[1]}")
    return float((region_similarity(predicted, truth).mean() + contour_accuracy(predicted, truth).mean()) / 2)


def _rows(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Mask, Mask]:
    a, b = (np.asarray(masks).astype(np.bool_) for masks in (predicted, truth))
    if a.ndim < 2 or a.shape != b.shape or not a.size:
        raise BadInput(f"masks must be of one shape (n, ...), not {a.shape} and {b.shape}")
    return a.reshape(len(a), -1), b.reshape(len(b), -1)


def _ratio(shared: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Vector:
    shares: Vector = np.divide(shared, whole, out=np.ones(len(whole)), where=whole > 0)
    return shares


def _share(right: Mask, pixels: Mask, empty: Mask) -> Vector:
    """Right contour pixels of all; a contour without pixels is right only where the other is `empty` too."""
    count = pixels.sum(axis=(1, 2))
    default = np.where(empty, 1.0, 0.0)
    # DAVIS: no contour said but one there gives precision 1 and recall 0, so F is 0 either way
    shares: Vector = np.divide(right.sum(axis=(1, 2)), count, out=default, where=count > 0)
    return shares


def _any(masks: Mask) -> Mask:
    return np.asarray(masks.any(axis=(1, 2)))


def _contour(masks: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower right neighbour, as DAVIS draws contours."""
    edge = np.pad(masks, ((0, 0), (0, 1), (0, 1)), mode="edge")
    here = edge[:, :-1, :-1]
    contour: Mask = (here != edge[:, :-1, 1:]) | (here != edge[:, 1:, :-1]) | (here != edge[:, 1:, 1:])
    return contour


def _grown(masks: Mask, radius: int) -> Mask:
    """Dilated by a disc, one row of the disc at a time."""
    _, height, width = masks.shape
    padded = np.pad(masks, ((0, 0), (radius, radius), (radius, radius)))
    sums = np.cumsum(np.pad(padded, ((0, 0), (0, 0), (1, 0))), axis=2, dtype=np.int32)
    grown = np.zeros_like(masks)
    for down in range(-radius, radius + 1):
        reach = int(np.sqrt(radius * radius - down * down))
        rows = sums[:, radius + down : radius + down + height]
        low, high = radius - reach, radius + reach + 1
        grown |= rows[:, :, high : high + width] > rows[:, :, low : low + width]
    return grown
