"""Retrieval quality from similarities: MRR@k, recall@k, nDCG@k, one value a query; and how far two rankings agree.

Knows similarities and which passages are right. Knows nothing of how they were embedded.

Source: Manning, Raghavan, Schütze, "Introduction to Information Retrieval" (2008), chapter 8; nDCG with
binary gains after Järvelin and Kekäläinen (2002).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Array = npt.NDArray[np.floating]
Vector = npt.NDArray[np.float64]


def reciprocal_rank(similarity: Array, relevant: npt.ArrayLike | None = None, k: int = 10) -> Vector:
    """1 / rank of each query's first right passage, 0 where that is not among the first k. Its mean is MRR@k.

    similarity: (queries, passages). relevant: (queries, passages) of booleans, or None where passage i is the
    one answer to query i. A wrong passage as similar as a right one counts as ranked before it, so that
    embeddings that say nothing score low. Raises BadInput for NaN and shapes that do not fit.
    """
    ranks, right = _ranks(similarity, relevant)
    first = np.where(right, ranks, np.inf).min(axis=1)
    return np.where(first <= _positive(k), 1 / first, 0.0)


def recall(similarity: Array, relevant: npt.ArrayLike | None = None, k: int = 10) -> Vector:
    """Share of each query's right passages among the first k. Arguments as for `reciprocal_rank`."""
    ranks, right = _ranks(similarity, relevant)
    found: Vector = (right & (ranks <= _positive(k))).sum(axis=1) / right.sum(axis=1)
    return found


def ndcg(similarity: Array, relevant: npt.ArrayLike | None = None, k: int = 10) -> Vector:
    """Normalised discounted cumulative gain of each query. Arguments as for `reciprocal_rank`."""
    ranks, right = _ranks(similarity, relevant)
    gains: Vector = np.where(right & (ranks <= _positive(k)), 1 / np.log2(1 + ranks), 0.0).sum(axis=1)
    ideal = np.cumsum(1 / np.log2(1 + np.arange(1, k + 1)))
    return np.asarray(gains / ideal[np.minimum(right.sum(axis=1), k) - 1])


def gamma(scores: npt.ArrayLike, final: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> float:
    """(agreeing - disagreeing) / (agreeing + disagreeing) pairs of two rankings, (items,) each (Goodman and Kruskal
    1954); pairs that are equal in either do not count. NaN where none counts.

    groups: (items,); then only pairs of different groups count.
    """
    a, b = np.asarray(scores, np.float64), np.asarray(final, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInput(f"two rankings must be finite and alike, not {a.shape} and {b.shape}")
    first, second = np.triu_indices(len(a), 1)
    signs = np.sign(a[first] - a[second]) * np.sign(b[first] - b[second])
    if groups is not None:
        which = np.asarray(groups)
        signs = signs[which[first] != which[second]]
    counted = np.abs(signs).sum()
    return float(signs.sum() / counted) if counted else float("nan")


def _positive(k: int) -> int:
    if k < 1:
        raise BadInput(f"k must be at least 1, not {k}")
    return k


def _ranks(
    similarity: Array, relevant: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rank of each passage from 1, and which are right."""
    scores = np.asarray(similarity)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise BadInput(f"similarities must be finite, (queries, passages), not of shape {scores.shape}")
    if relevant is None and scores.shape[0] > scores.shape[1]:
        raise BadInput(f"{scores.shape[0]} queries and {scores.shape[1]} passages: say which are relevant")
    right = (
        np.eye(*scores.shape, dtype=np.bool_) if relevant is None else np.asarray(relevant, dtype=np.bool_)
    )
    if right.shape != scores.shape or not right.any(axis=1).all():
        raise BadInput("every query needs a relevant passage, and relevant the shape of similarity")
    order = np.lexsort((right, -scores), axis=1)
    ranks = np.empty(scores.shape, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return ranks, right
