"""Quality of what vision models say: detection scores, identities, boxes that follow a target.

Knows scores, identities and boxes. Knows nothing of models or pictures; masks are in `segmentation`, joints in
`keypoints`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Vector = npt.NDArray[np.float64]


def auroc(scores: npt.ArrayLike, positive: npt.ArrayLike) -> float:
    """Area under the receiver operating characteristic, 0..1: the probability that a positive scores above a
    negative, ties counting half (Mann and Whitney 1947).

    scores: (n,). positive: (n,) of booleans. Raises BadInput for NaN and where one of the two sides is empty.
    """
    values, right = _scored(scores, positive)
    if right.all() or not right.any():
        raise BadInput("AUROC needs positives and negatives; this set has only one of the two")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = int(right.sum())
    negatives = len(right) - positives
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def multilabel_auroc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Vector:
    """AUROC of each label by itself, (labels,); its mean is the macro figure of chest X-ray papers.

    scores, labels: (n, labels). Raises BadInput, naming the column, where a label is never or always there.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(labels).astype(np.bool_)
    if values.ndim != 2 or values.shape != truth.shape or not values.size:
        raise BadInput(
            f"scores and labels must be of one shape (n, labels), not {values.shape}, {truth.shape}"
        )
    same = np.flatnonzero(truth.all(axis=0) | ~truth.any(axis=0))
    if same.size:
        raise BadInput(f"label {same[0]} is the same in every sample; leave that column out or add samples")
    return np.array([auroc(values[:, k], truth[:, k]) for k in range(values.shape[1])])


def verification_accuracy(scores: npt.ArrayLike, same: npt.ArrayLike, folds: int = 10) -> Vector:
    """Accuracy of "same or not" on each fold at the threshold that is best on the other folds, (folds,).

    The protocol of Labeled Faces in the Wild (Huang et al. 2007); pairs are dealt to folds in turn, so shuffle
    or interleave them. scores: (pairs,), higher means more alike. same: (pairs,) of booleans. With folds=1 the
    threshold is chosen on the very pairs it is judged by: an upper bound. Raises BadInput for too few pairs.
    """
    values, right = _scored(scores, same)
    if not 1 <= folds <= len(values) // 2:
        raise BadInput(f"{len(values)} pairs do not make {folds} folds; use between 1 and half as many")
    fold = np.arange(len(values)) % folds
    accuracies = []
    for k in range(folds):
        held, rest = fold == k, (fold != k) if folds > 1 else np.ones(len(values), np.bool_)
        threshold = _best_threshold(values[rest], right[rest])
        accuracies.append(float(((values[held] >= threshold) == right[held]).mean()))
    return np.array(accuracies)


def true_accept_rate(scores: npt.ArrayLike, same: npt.ArrayLike, false_accept_rate: float) -> float:
    """Share of same-identity pairs accepted where at most that share of the others is (TAR@FAR).

    scores: (pairs,); a pair is accepted at or above a threshold, so tied scores go together. same: (pairs,).
    Raises BadInput where there are too few other pairs to tell such a rate from none: below one in all.
    """
    values, right = _scored(scores, same)
    if right.all() or not right.any():
        raise BadInput("TAR@FAR needs pairs of one identity and pairs of two")
    if not 0 < false_accept_rate <= 1 or false_accept_rate * (~right).sum() < 1 - 1e-9:
        raise BadInput(
            f"a false accept rate of {false_accept_rate:g} needs at least {1 / max(false_accept_rate, 1e-12):.0f} "
            f"pairs of different identities, not {(~right).sum()}; give more pairs or a higher rate"
        )
    others = np.sort(values[~right])[::-1]
    allowed = int(np.floor(false_accept_rate * len(others) + 1e-9))
    # accepted is what scores above the first impostor that must be refused
    floor = others[allowed] if allowed < len(others) else -np.inf
    return float((values[right] > floor).mean())


@dataclass(frozen=True)
class ReIdentification:
    """mean_average_precision: 0..1. cmc: share of queries with a right answer among the first k, k = 1, 2, …
    (gallery,). skipped: queries with no right answer in another camera, which both figures leave out."""

    mean_average_precision: float
    cmc: Vector
    skipped: int


def reid_map_cmc(
    distance: npt.ArrayLike,
    query_identities: npt.ArrayLike,
    gallery_identities: npt.ArrayLike,
    query_cameras: npt.ArrayLike,
    gallery_cameras: npt.ArrayLike,
) -> ReIdentification:
    """Person re-identification as on Market-1501 (Zheng et al. 2015): the query's own identity in the query's
    own camera is left out of its gallery. A wrong picture as near as a right one counts as ranked before it.

    distance: (queries, gallery), lower is more alike; the other four (queries,) or (gallery,) integers.
    Raises BadInput for NaN, for shapes that do not fit, and where every query is skipped.
    """
    far = np.asarray(distance, np.float64)
    ids, cameras = np.asarray(query_identities), np.asarray(query_cameras)
    all_ids, all_cameras = np.asarray(gallery_identities), np.asarray(gallery_cameras)
    if far.ndim != 2 or not far.size or not np.isfinite(far).all():
        raise BadInput(f"distances must be finite, (queries, gallery), not of shape {far.shape}")
    if {ids.shape, cameras.shape} != {far.shape[:1]} or {all_ids.shape, all_cameras.shape} != {far.shape[1:]}:
        raise BadInput(
            f"distances {far.shape} need an identity and a camera for each query and gallery picture"
        )
    precisions: list[float] = []
    first_hits: list[int] = []
    for row, identity, camera in zip(far, ids, cameras):
        kept = ~((all_ids == identity) & (all_cameras == camera))
        right = all_ids[kept] == identity
        if not right.any():
            continue
        hits = right[np.lexsort((right, row[kept]))]
        ranks = np.flatnonzero(hits) + 1
        precisions.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
        first_hits.append(int(ranks[0]))
    if not precisions:
        raise BadInput("no query has its identity in another camera of the gallery: nothing can be found")
    cmc = np.cumsum(np.bincount(first_hits, minlength=far.shape[1] + 1)[1:]) / len(first_hits)
    return ReIdentification(float(np.mean(precisions)), cmc, len(ids) - len(precisions))


def box_iou(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> Vector:
    """Intersection over union of each box with the same row's, (n,), 0..1. Boxes: (n, 4) as left, top, width,
    height in any unit. Raises BadInput for NaN, negative sizes and a true box without area."""
    a, b = _boxes(predicted), _boxes(truth)
    if a.shape != b.shape or not len(a):
        raise BadInput(
            f"as many predicted as true boxes are needed, and one at least, not {len(a)}, {len(b)}"
        )
    if (b[:, 2:] <= 0).any():
        raise BadInput("a true box has no area; leave frames without the target out")
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    union = a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared
    return np.asarray(np.minimum(shared / union, 1.0))  # rounding may pass 1


def tracking_auc(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Area under the success curve of one sequence, 0..1: the share of frames whose overlap exceeds a
    threshold, averaged over the thresholds 0, 0.05 … 1 (Wu, Lim, Yang 2013, "Online Object Tracking").

    predicted, truth: boxes (frames, 4), see `box_iou`. Since overlap must *exceed* 1 at the last threshold, a
    perfect track has 20/21, as in the benchmark's own code.
    """
    overlaps = box_iou(predicted, truth)
    thresholds = np.arange(21) / 20
    return float((overlaps[:, None] > thresholds).mean())


def tracking_precision(predicted: npt.ArrayLike, truth: npt.ArrayLike, pixels: float = 20.0) -> float:
    """Share of frames whose box centre lies within so many pixels of the true centre. Boxes: (frames, 4)."""
    a, b = _boxes(predicted), _boxes(truth)
    if a.shape != b.shape or not len(a) or pixels <= 0:
        raise BadInput(f"as many predicted as true boxes and pixels > 0 are needed, not {len(a)}, {len(b)}")
    away = np.linalg.norm((a[:, :2] + a[:, 2:] / 2) - (b[:, :2] + b[:, 2:] / 2), axis=1)
    return float((away <= pixels).mean())


def _best_threshold(scores: Vector, same: npt.NDArray[np.bool_]) -> float:
    """The threshold with the highest accuracy, between two scores; the lowest of several."""
    order = np.argsort(scores, kind="stable")
    ranked, right = scores[order], same[order]
    # at cut i the first i are refused and the rest accepted
    refused = np.concatenate([[0], np.cumsum(~right)])
    accepted = np.concatenate([np.cumsum(right[::-1])[::-1], [0]])
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    cut = int(np.argmax(np.where(possible, refused + accepted, -1)))
    if cut == 0:
        return -np.inf
    return float(ranked[-1] + 1) if cut == len(ranked) else float((ranked[cut - 1] + ranked[cut]) / 2)


def _scored(scores: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Vector, npt.NDArray[np.bool_]]:
    values, right = np.asarray(scores, np.float64), np.asarray(truth)
    if values.ndim != 1 or values.shape != right.shape or not values.size or not np.isfinite(values).all():
        raise BadInput(
            f"scores must be finite, (n,), with as many truths, not {values.shape} and {right.shape}"
        )
    return values, right.astype(np.bool_)


def _boxes(boxes: npt.ArrayLike) -> Vector:
    values = np.asarray(boxes, np.float64)
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all() or (values[:, 2:] < 0).any():
        raise BadInput(f"boxes must be finite, (n, 4) as left, top, width, height, not {values.shape}")
    return values
