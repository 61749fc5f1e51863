"""Scores in clusters, and which of them settle who is among the best.

Knows numbers. Knows nothing of models or of what is ranked. Between clusters of scores the order settles layers before
it does inside them, so that clusters that lie wholly above or below the last open place can be decided at once.

Source: Zhou et al. 2025, "GRATING: Low-Latency and Memory-Efficient Semantic Selection on Device", progressive cluster
pruning.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
_MOST = 4  # clusters


@dataclass(frozen=True)
class Routes:
    """Positions of candidates: sure of a place, the highest first; sure of none; and those still open."""

    selected: Labels
    dropped: Labels
    open: Labels


def variation(scores: npt.ArrayLike) -> float:
    """The coefficient of variation |std / mean|, infinite where the mean is zero and the scores differ."""
    values = _checked(scores)
    spread, mean = float(values.std()), abs(float(values.mean()))
    if spread == 0:
        return 0.0
    return spread / mean if mean else float("inf")


def cluster(scores: npt.ArrayLike, count: int) -> Labels:
    """The cluster of each score, 0 for the highest ones: those that make the squared distance to the clusters' means
    least, exactly (dynamic programming over sorted scores, Wang and Song 2011).

    Raises BadInput where there are fewer different scores than clusters.
    """
    values = _checked(scores)
    if not 1 <= count <= len(np.unique(values)):
        raise BadInput(f"{len(np.unique(values))} different scores do not make {count} clusters")
    order = np.argsort(-values, kind="stable")
    ordered = values[order] - values.mean()  # near zero, where sums of squares lose nothing
    size = len(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(ordered**power)]) for power in (1, 2))

    def cost(first: Labels, stop: int) -> Floats:
        """Of one cluster from each of `first` to stop."""
        total = sums[stop] - sums[first]
        return np.asarray(squares[stop] - squares[first] - total**2 / (stop - first))

    best = np.full((count + 1, size + 1), np.inf)
    best[0, 0] = 0.0
    begins = np.zeros((count + 1, size + 1), np.int64)
    for clusters in range(1, count + 1):
        for stop in range(clusters, size + 1):
            first = np.arange(clusters - 1, stop)
            costs = best[clusters - 1, first] + cost(first, stop)
            at = int(costs.argmin())
            best[clusters, stop], begins[clusters, stop] = costs[at], first[at]
    labels, stop = np.empty(size, np.int64), size
    for clusters in range(count, 0, -1):
        begin = begins[clusters, stop]
        labels[order[begin:stop]] = clusters - 1
        stop = begin
    return labels


def silhouette(scores: npt.ArrayLike, labels: Labels) -> float:
    """The mean silhouette of scores in two clusters or more (Rousseeuw 1987); 0 for one that is alone."""
    values = _checked(scores)
    distance = np.abs(values[:, None] - values[None])
    own = labels[:, None] == np.arange(labels.max() + 1)
    counts = own.sum(0)
    sums = distance @ own
    mine = np.arange(len(values)), labels
    inside = sums[mine] / np.maximum(counts[labels] - 1, 1)
    means = sums / counts
    means[mine] = np.inf
    outside = means.min(1)
    widths = np.where(
        counts[labels] > 1, (outside - inside) / np.maximum(np.maximum(inside, outside), 1e-300), 0
    )
    return float(widths.mean())


def best_clusters(scores: npt.ArrayLike) -> Labels:
    """Clusters of the number, two to four, whose silhouette is highest; one cluster where all scores are equal."""
    values = _checked(scores)
    most = min(_MOST, len(np.unique(values)), len(values) - 1)
    if most < 2:
        return np.zeros(len(values), np.int64)
    found = [cluster(values, count) for count in range(2, most + 1)]
    return max(found, key=lambda labels: silhouette(values, labels))


def route(scores: npt.ArrayLike, places: int) -> Routes:
    """Who is settled when so many places are open: clusters above the one that holds the last place have theirs,
    clusters below it have none."""
    values = _checked(scores)
    if not 0 < places < len(values):
        raise BadInput(f"{places} places among {len(values)} candidates leave nothing to choose")
    labels = best_clusters(values)
    ends = np.cumsum(np.bincount(labels))
    boundary = int(np.searchsorted(ends, places))
    if ends[boundary] == places:  # the cluster fills the places to the last: nothing is open
        boundary_open = np.zeros(0, np.int64)
        above = np.flatnonzero(labels <= boundary)
    else:
        boundary_open = np.flatnonzero(labels == boundary)
        above = np.flatnonzero(labels < boundary)
    return Routes(
        above[np.argsort(-values[above], kind="stable")], np.flatnonzero(labels > boundary), boundary_open
    )


def _checked(scores: npt.ArrayLike) -> Floats:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not values.size:
        raise BadInput(f"scores must be (candidates,), not of shape {values.shape}")
    if not np.isfinite(values).all():
        raise BadInput("a score is not a number; the model is damaged or its input was")
    return values
