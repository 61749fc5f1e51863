from __future__ import annotations

import itertools

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from ondevice.errors import BadInput
from ondevice.measure.quality.speech import (
    align,
    character_error_rate,
    equal_error_rate,
    mel_cepstral_distortion,
    real_time_factor,
    word_error_rate,
    word_errors,
)

WORDS = st.lists(st.sampled_from(["on", "off", "the", "light", "red"]), max_size=8)
TEXTS = st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(TEXTS)
def test_error_rates_are_jiwers(pairs):
    references, hypotheses = ([" ".join(words) for words in column] for column in zip(*pairs, strict=True))
    assert word_error_rate(references, hypotheses) == pytest.approx(jiwer.wer(references, hypotheses))
    assert character_error_rate(references, hypotheses) == pytest.approx(jiwer.cer(references, hypotheses))


@settings(max_examples=60, deadline=None)
@given(WORDS.filter(bool), WORDS)
def test_an_alignment_accounts_for_every_word(reference, hypothesis):
    found = align(reference, hypothesis)
    assert len(reference) - found.deletions + found.insertions == len(hypothesis)
    back = align(hypothesis, reference)
    assert (back.edits, back.deletions, back.insertions) == (found.edits, found.insertions, found.deletions)


def test_each_text_has_its_own_errors():
    first, second = word_errors(["turn on the light", "stop"], ["turn the lamp", "stop now"])
    assert (first.substitutions, first.deletions, first.insertions) == (1, 1, 0)
    assert (second.substitutions, second.deletions, second.insertions) == (0, 0, 1)
    assert (first + second).rate == 3 / 5


def brute_force_eer(scores: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """Bounds of the equal error rate: the best worst error of any threshold, and the best of both errors."""
    thresholds = [*np.unique(scores), np.inf]
    errors = [(np.mean(scores[~same] >= t), np.mean(scores[same] < t)) for t in thresholds]
    return max(min(pair) for pair in errors), min(max(pair) for pair in errors)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=4, max_size=40))
def test_equal_error_rate_lies_on_scikit_learns_curve(trials):
    scores, same = np.array([t[0] for t in trials], float), np.array([t[1] for t in trials])
    if same.all() or not same.any():
        return
    rate, _ = equal_error_rate(scores, same)
    accepted, kept, _ = roc_curve(same, scores, drop_intermediate=False)
    assert np.interp(rate, accepted, 1 - kept) == pytest.approx(rate, abs=1e-9) or rate in accepted
    low, high = brute_force_eer(scores, same)
    assert low - 1e-9 <= rate <= high + 1e-9


def test_equal_error_rate_of_two_normals_is_known():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(2, 1, 40000), rng.normal(0, 1, 40000)])
    rate, threshold = equal_error_rate(scores, np.arange(80000) < 40000)
    assert rate == pytest.approx(0.15866, abs=0.005)  # the normal distribution's tail beyond 1
    assert threshold == pytest.approx(1, abs=0.05)


def test_perfect_and_useless_scores():
    assert equal_error_rate([3, 2, 1, 0], [True, True, False, False])[0] == 0
    assert equal_error_rate([1, 1, 1, 1], [True, True, False, False])[0] == pytest.approx(0.5)
    assert equal_error_rate([0, 1], [True, False])[0] == 1


def brute_force_warp(cost: np.ndarray) -> float:
    """The least total cost over every path, by recursion."""
    rows, columns = cost.shape

    def best(row: int, column: int) -> float:
        if row == rows - 1 and column == columns - 1:
            return float(cost[row, column])
        steps = [
            (row + a, column + b)
            for a, b in ((1, 1), (1, 0), (0, 1))
            if row + a < rows and column + b < columns
        ]
        return float(cost[row, column]) + min(best(*step) for step in steps)

    return best(0, 0)


def test_distortion_is_kubicheks_formula():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((6, 13)), rng.standard_normal((6, 13))
    expected = np.mean([
        10 / np.log(10) * np.sqrt(2 * sum((a - b) ** 2 for a, b in zip(x[1:], y[1:]))) for x, y in zip(first, second)
    ])  # fmt: skip
    assert mel_cepstral_distortion(first, second) == pytest.approx(expected)
    first[:, 0] += 5  # loudness does not count
    assert mel_cepstral_distortion(first, second) == pytest.approx(expected)


def test_warping_takes_the_cheapest_path():
    rng = np.random.default_rng(1)
    for rows, columns in itertools.product((1, 3, 4), (2, 5)):
        first, second = rng.standard_normal((rows, 4)), rng.standard_normal((columns, 4))
        cost = np.array([[mel_cepstral_distortion(x[None], y[None]) for y in second] for x in first])
        warped = mel_cepstral_distortion(first, second, warp=True)
        least = brute_force_warp(cost)
        assert least / (rows + columns - 1) - 1e-9 <= warped <= least / max(rows, columns) + 1e-9


def test_a_slower_copy_is_warped_back():
    frames = np.random.default_rng(2).standard_normal((20, 13))
    assert mel_cepstral_distortion(frames, np.repeat(frames, 2, axis=0), warp=True) == pytest.approx(0)


def test_real_time_factor():
    assert real_time_factor(0.5, 2) == 0.25


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: word_error_rate(["a"], []),
        lambda: word_error_rate([], []),
        lambda: word_error_rate([" "], ["a"]),
        lambda: word_error_rate("a", "a"),
        lambda: equal_error_rate([1, 2], [True, True]),
        lambda: equal_error_rate([1, np.nan], [True, False]),
        lambda: mel_cepstral_distortion(np.ones((3, 4)), np.ones((2, 4))),
        lambda: mel_cepstral_distortion(np.ones((3, 4)), np.ones((3, 5))),
        lambda: real_time_factor(1, 0),
    ],
)
def test_bad_input_is_refused(wrong):
    with pytest.raises(BadInput):
        wrong()
