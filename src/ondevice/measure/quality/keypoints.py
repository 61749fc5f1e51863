"""Quality of joints: object keypoint similarity and its average precision, as COCO defines them.

Knows joints in pixels and scores. Knows nothing of models or skeletons.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Array = npt.NDArray[np.float64]

# COCO's spread of 17 joints between annotators, by which a distance is judged: nose, eyes, ears, shoulders,
# elbows, wrists, hips, knees, ankles.
COCO_SIGMAS = np.array(
    [0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
     0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089]
)  # fmt: skip
_THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_RECALLS = np.linspace(0, 1, 101)


def oks(
    predicted: npt.ArrayLike,
    truth: npt.ArrayLike,
    visible: npt.ArrayLike,
    area: npt.ArrayLike,
    sigmas: npt.ArrayLike = COCO_SIGMAS,
) -> Array:
    """Object keypoint similarity of each predicted with each true person, (n, m), 0..1: the mean over visible
    joints of exp(-d^2 / (2 area (2 sigma)^2)) (Lin et al. 2014, the keypoint task's evaluation).

    predicted: (n, joints, 2) pixels. truth: (m, joints, 2). visible: (m, joints) of booleans. area: (m,) of the
    person, square pixels. sigmas: (joints,). Raises BadInput for a true person without visible joints.
    """
    said, right = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    seen, size = np.asarray(visible).astype(np.bool_), np.asarray(area, np.float64)
    spread = np.asarray(sigmas, np.float64)
    if said.ndim != 3 or right.ndim != 3 or said.shape[1:] != right.shape[1:] or right.shape[2] != 2:
        raise BadInput(f"joints must be (people, joints, 2) in pixels, not {said.shape} and {right.shape}")
    if seen.shape != right.shape[:2] or size.shape != right.shape[:1] or spread.shape != right.shape[1:2]:
        raise BadInput("visible must be (people, joints), area (people,) and sigmas (joints,)")
    if not np.isfinite(said).all() or not np.isfinite(right[seen]).all() or not (size > 0).all():
        raise BadInput("joints must be finite and areas above 0")
    if not (spread > 0).all() or not seen.any(axis=1).all():
        raise BadInput(
            "sigmas must be above 0, and every true person needs a visible joint; leave others out"
        )
    squared = ((said[:, None] - np.where(seen[..., None], right, 0.0)[None]) ** 2).sum(axis=3)
    near = np.exp(-squared / (2 * size[None, :, None] * (2 * spread) ** 2))
    return np.asarray((near * seen).sum(axis=2) / seen.sum(axis=1))


def oks_average_precision(
    predicted: npt.ArrayLike,
    scores: npt.ArrayLike,
    images: npt.ArrayLike,
    truth: npt.ArrayLike,
    visible: npt.ArrayLike,
    area: npt.ArrayLike,
    truth_images: npt.ArrayLike,
    sigmas: npt.ArrayLike = COCO_SIGMAS,
) -> Array:
    """COCO's keypoint average precision at each OKS threshold 0.50, 0.55 … 0.95, (10,); its mean is "AP".

    predicted: (n, joints, 2), scores, images: (n,), which picture it is in. truth: (m, joints, 2), visible:
    (m, joints), area, truth_images: (m,). The 20 best of a picture count; each in the order of its score takes
    the most similar person not yet taken; precision is read at 101 recalls. Raises BadInput as `oks` does.
    """
    sure, where = np.asarray(scores, np.float64), np.asarray(images)
    right_where = np.asarray(truth_images)
    similar = oks(predicted, truth, visible, area, sigmas)
    if sure.shape != similar.shape[:1] or where.shape != sure.shape or right_where.shape != similar.shape[1:]:
        raise BadInput(
            f"{similar.shape[0]} predicted and {similar.shape[1]} true people need as many scores, images"
        )
    if not np.isfinite(sure).all() or not similar.shape[1]:
        raise BadInput("scores must be finite, and there must be people to find")
    taken_scores: list[Array] = []
    hits: list[npt.NDArray[np.bool_]] = []
    for image in np.unique(where):
        rows = np.flatnonzero(where == image)
        rows = rows[np.argsort(-sure[rows], kind="stable")][:20]
        hits.append(_match(similar[np.ix_(rows, np.flatnonzero(right_where == image))]))
        taken_scores.append(sure[rows])
    if not hits:
        return np.zeros(len(_THRESHOLDS))
    order = np.argsort(-np.concatenate(taken_scores), kind="stable")
    return np.array([_precision(row[order], similar.shape[1]) for row in np.concatenate(hits, axis=1)])


def _match(similar: Array) -> npt.NDArray[np.bool_]:
    """Which predictions, in their order, find a person: (thresholds, predictions)."""
    found = np.zeros((len(_THRESHOLDS), len(similar)), np.bool_)
    for level, threshold in enumerate(_THRESHOLDS):
        free = np.ones(similar.shape[1], np.bool_)
        for row, values in enumerate(similar):
            open_ = np.where(free, values, -1.0)
            # COCO takes the last of equally similar people
            best = len(open_) - 1 - int(np.argmax(open_[::-1])) if len(open_) else -1
            if best >= 0 and open_[best] >= min(threshold, 1 - 1e-10):
                free[best] = False
                found[level, row] = True
    return found


def _precision(hits: npt.NDArray[np.bool_], people: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / people, _RECALLS, side="left")
    return float(np.concatenate([best, [0.0]])[np.minimum(at, len(best))].mean())
