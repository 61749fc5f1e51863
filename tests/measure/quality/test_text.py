"""Measures of text against rouge-score, and definitions spelled out slowly."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from ondevice.errors import BadInput
from ondevice.measure.quality.text import (
    bits_per_byte,
    divergences,
    edit_distance,
    exact_match,
    log_probabilities,
    perplexity,
    rouge_l,
    rouge_n,
)

sentences = st.lists(st.sampled_from(["the", "cat", "sat", "Mat,", "on", "3", "a-b"]), max_size=12).map(
    " ".join
)
short = st.text("abc", max_size=6)


@settings(deadline=None)  # the import of rouge-score is slow
@given(sentences, sentences)
def test_rouge_is_googles(candidate: str, reference: str) -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install rouge-score").RougeScorer(
        ["rouge1", "rouge2", "rougeL"]
    )
    theirs = scorer.score(reference, candidate)
    ours = {"rouge1": rouge_n(candidate, reference), "rouge2": rouge_n(candidate, reference, 2)}
    ours["rougeL"] = rouge_l(candidate, reference)
    for name, found in ours.items():
        expected = theirs[name]
        assert (found.precision, found.recall, found.f1) == pytest.approx(
            (expected.precision, expected.recall, expected.fmeasure)
        )


def test_rouge_of_lins_example() -> None:
    # Lin (2004), section 3.1: of the reference, S2 keeps three words in order, S3 two
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference).f1 == pytest.approx(3 / 4)
    assert rouge_l("the gunman kill police", reference).f1 == pytest.approx(2 / 4)
    assert rouge_n("police kill the gunman", reference, 2).recall == pytest.approx(1 / 3)


@given(short, short)
def test_edit_distance_is_its_recursion(left: str, right: str) -> None:
    @cache
    def slowly(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            slowly(i - 1, j) + 1, slowly(i, j - 1) + 1, slowly(i - 1, j - 1) + (left[i - 1] != right[j - 1])
        )

    assert edit_distance(left, right) == slowly(len(left), len(right))


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20))
def test_perplexity_is_the_geometric_mean_of_the_inverse(probabilities: list[float]) -> None:
    total = sum(map(math.log, probabilities))
    assert perplexity(total, len(probabilities)) == pytest.approx(
        math.prod(probabilities) ** (-1 / len(probabilities))
    )


def test_a_fair_byte_costs_eight_bits() -> None:
    assert bits_per_byte(10 * math.log(1 / 256), 10) == pytest.approx(8)


def test_exact_match_forgives_white_space_only() -> None:
    assert exact_match(["a  b\n", "A b", ""], ["a b", "a b", " "]).tolist() == [1, 0, 1]


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="tokens"):
        perplexity(-1.0, 0)
    with pytest.raises(BadInput, match="at most 0"):
        bits_per_byte(1.0, 3)
    with pytest.raises(BadInput, match="nan"):
        perplexity(math.nan, 3)
    with pytest.raises(BadInput, match="as many"):
        exact_match(["a"], ["a", "b"])
    with pytest.raises(BadInput, match="n must"):
        rouge_n("a", "b", 0)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(2, 50), st.integers(0, 1000))
def test_log_probabilities_and_divergences_are_those_of_scipy(
    tokens: int, vocabulary: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left, right = (rng.normal(0, 8, (tokens, vocabulary)).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, vocabulary, tokens)
    expected = log_softmax(left.astype(float), axis=1)
    np.testing.assert_allclose(
        log_probabilities(left, targets), expected[np.arange(tokens), targets], rtol=1e-12
    )
    theirs = entropy(softmax(left.astype(float), axis=1), softmax(right.astype(float), axis=1), axis=1)
    np.testing.assert_allclose(divergences(left, right), theirs, rtol=1e-9, atol=1e-12)
    assert not divergences(left, left).any()


def test_a_large_vocabulary_is_worked_through_in_blocks() -> None:
    rng = np.random.default_rng(0)
    left, right = (rng.normal(0, 3, (40, 200_000)).astype(np.float32) for _ in range(2))
    row = divergences(left[33:34], right[33:34])
    assert divergences(left, right)[33] == row[0]


def test_logits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput, match="3 targets"):
        log_probabilities(np.zeros((2, 5), np.float32), [0, 1, 2])
    with pytest.raises(BadInput, match="compared"):
        divergences(np.zeros((2, 5), np.float32), np.zeros((2, 6), np.float32))
