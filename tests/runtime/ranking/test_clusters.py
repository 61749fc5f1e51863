"""Clusters of scores against scikit-learn and every way to cut a sorted row."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from ondevice.errors import BadInput
from ondevice.runtime.ranking.clusters import best_clusters, cluster, route, silhouette, variation

scores_lists = st.lists(st.integers(0, 400).map(lambda it: it / 400), min_size=2, max_size=10)


def spread(scores: np.ndarray, labels: np.ndarray) -> float:
    return sum(
        ((scores[labels == each] - scores[labels == each].mean()) ** 2).sum() for each in set(labels.tolist())
    )


@given(scores_lists, st.integers(1, 4))
def test_no_cut_of_the_sorted_scores_is_better(scores: list[float], count: int) -> None:
    values = np.array(scores)
    if len(set(scores)) < count:
        with pytest.raises(BadInput, match="different scores"):
            cluster(values, count)
        return
    labels = cluster(values, count)
    ordered = np.sort(values)
    best = min(
        sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cuts))
        for cuts in combinations(range(1, len(values)), count - 1)
    )
    assert sorted(set(labels.tolist())) == list(range(count))
    assert spread(values, labels) == pytest.approx(best, abs=1e-12)
    assert all(values[labels == a].min() >= values[labels == a + 1].max() for a in range(count - 1))


@given(st.lists(st.floats(0, 1, width=16), min_size=4, max_size=12, unique=True), st.integers(2, 3))
def test_silhouette_is_scikit_learns(scores: list[float], count: int) -> None:
    values = np.array(scores)
    labels = cluster(values, count)
    assert silhouette(values, labels) == pytest.approx(silhouette_score(values[:, None], labels), abs=1e-9)


def test_the_number_of_clusters_is_found() -> None:
    three = np.array([0.9, 0.91, 0.5, 0.52, 0.51, 0.1, 0.12])
    assert best_clusters(three).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert best_clusters([0.3, 0.3, 0.3]).tolist() == [0, 0, 0]


def test_routes() -> None:
    scores = [0.1, 0.9, 0.5, 0.92, 0.52, 0.12, 0.51]
    two = route(scores, 2)
    assert (two.selected.tolist(), two.open.tolist()) == ([3, 1], [])
    assert sorted(two.dropped.tolist()) == [0, 2, 4, 5, 6]
    three = route(scores, 3)
    assert (three.selected.tolist(), three.open.tolist(), three.dropped.tolist()) == (
        [3, 1],
        [2, 4, 6],
        [0, 5],
    )


@given(scores_lists, st.integers(1, 9))
def test_every_candidate_is_routed_once_and_places_are_kept(scores: list[float], places: int) -> None:
    if places >= len(scores):
        with pytest.raises(BadInput, match="nothing to choose"):
            route(scores, places)
        return
    routes = route(scores, places)
    together = [*routes.selected.tolist(), *routes.dropped.tolist(), *routes.open.tolist()]
    assert sorted(together) == list(range(len(scores)))
    assert len(routes.selected) <= places <= len(routes.selected) + len(routes.open)
    kept = np.array(scores)
    if len(routes.open):
        assert len(routes.selected) < places
        assert all(kept[routes.open].min() > each for each in kept[routes.dropped])
        assert all(kept[routes.open].max() < each for each in kept[routes.selected])


def test_variation() -> None:
    assert variation([0.5, 0.5]) == 0
    assert variation([-1.0, 1.0]) == np.inf
    assert variation([1.0, 3.0]) == pytest.approx(0.5)
    with pytest.raises(BadInput, match="not a number"):
        variation([0.1, float("nan")])
