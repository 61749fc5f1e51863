"""Retrieval measures against scikit-learn and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.retrieval import gamma, ndcg, recall, reciprocal_rank


def case(seed: int, queries: int, passages: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    relevant = random.random((queries, passages)) < 0.2
    relevant[np.arange(queries), random.integers(0, passages, queries)] = True
    return random.permutation(queries * passages).reshape(queries, passages).astype(np.float32), relevant


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 30), st.integers(1, 40))
def test_against_brute_force(seed: int, queries: int, passages: int, k: int) -> None:
    similarity, relevant = case(seed, queries, passages)
    for query in range(queries):
        ranking = sorted(range(passages), key=lambda passage: -similarity[query, passage])
        hits = [relevant[query, passage] for passage in ranking]
        first = next((1 / rank for rank, hit in enumerate(hits[:k], start=1) if hit), 0.0)
        assert reciprocal_rank(similarity, relevant, k)[query] == pytest.approx(first)
        assert recall(similarity, relevant, k)[query] == pytest.approx(sum(hits[:k]) / sum(hits))


@pytest.mark.parametrize("k", [1, 3, 10, 50])
def test_against_scikit_learn(k: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    similarity, relevant = case(7, 20, 40)
    assert ndcg(similarity, relevant, k).mean() == pytest.approx(
        metrics.ndcg_score(relevant, similarity, k=k)
    )
    single = np.zeros_like(relevant)
    single[np.arange(20), np.arange(20)] = True
    mrr = metrics.label_ranking_average_precision_score(single, similarity)  # MRR where one passage is right
    assert reciprocal_rank(similarity, k=40).mean() == pytest.approx(mrr)
    top = (
        metrics.top_k_accuracy_score(np.arange(20), similarity, k=k, labels=np.arange(40)) if k < 40 else 1.0
    )
    assert recall(similarity, k=k).mean() == pytest.approx(top)


def test_embeddings_that_say_nothing_score_low() -> None:
    assert reciprocal_rank(np.ones((5, 20)), k=20).mean() == pytest.approx(1 / 20)
    assert recall(np.ones((5, 20)), k=10).mean() == 0


def test_bad_input() -> None:
    for similarity in (np.full((2, 2), np.nan), np.ones(3), np.ones((0, 3)), np.ones((3, 2))):
        with pytest.raises(BadInput):
            reciprocal_rank(similarity)
    with pytest.raises(BadInput, match="relevant passage"):
        recall(np.ones((2, 2)), np.array([[True, False], [False, False]]))
    with pytest.raises(BadInput, match="k must"):
        ndcg(np.ones((2, 2)), k=0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2)), min_size=2, max_size=12))
def test_gamma_against_brute_force_and_kendall(rows: list[tuple[int, int, int]]) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b, groups = (np.array(column) for column in zip(*rows, strict=True))

    def by_hand(everything: bool) -> float:
        agree = disagree = 0
        for i, one in enumerate(rows):
            for other in rows[:i]:
                if everything or one[2] != other[2]:
                    product = (one[0] - other[0]) * (one[1] - other[1])
                    agree, disagree = agree + (product > 0), disagree + (product < 0)
        return (agree - disagree) / (agree + disagree) if agree + disagree else float("nan")

    assert gamma(a, b) == pytest.approx(by_hand(True), nan_ok=True)
    assert gamma(a, b, groups) == pytest.approx(by_hand(False), nan_ok=True)
    if len(set(a)) == len(a) and len(set(b)) == len(b):  # without ties it is Kendall's tau
        assert gamma(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_gamma_of_rankings_that_do_not_match() -> None:
    with pytest.raises(BadInput, match="alike"):
        gamma([1.0, 2.0], [1.0])
