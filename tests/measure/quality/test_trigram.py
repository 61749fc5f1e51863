"""The trigram model: sums to one, is what the formulas say counted slowly, learns."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.trigram import Trigram

V = 6
streams = st.lists(st.integers(0, V - 1), min_size=3, max_size=60)


@settings(deadline=None)
@given(streams, st.integers(0, V - 1), st.integers(0, V - 1))
def test_each_context_sums_to_one(stream: list[int], first: int, second: int) -> None:
    model = Trigram(stream, V)
    total = sum(float(model.probabilities([first, second, token])[0]) for token in range(V))
    assert total == pytest.approx(1)


def _discounts(counts: Counter[tuple[int, ...]]) -> list[float]:
    n = [sum(count == number for count in counts.values()) for number in range(5)]
    if 0 in n[1:]:
        return [0.0, 0.5, 0.5, 0.5]
    y = n[1] / (n[1] + 2 * n[2])
    raw = [k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3)]
    return [0.0, *(min(max(value, 0.1), k - 0.1) for k, value in enumerate(raw, 1))]


def _slowly(
    stream: list[int], context: tuple[int, ...], token: int, counts: list[Counter[tuple[int, ...]]]
) -> float:
    """Chen and Goodman's recursion, by dictionaries."""
    order = len(context)
    lower = _slowly(stream, context[1:], token, counts) if order else 1 / V
    there = {gram: count for gram, count in counts[order].items() if gram[:-1] == context}
    if not there:
        return lower
    discount = _discounts(counts[order])
    total = sum(there.values())
    own = there.get((*context, token), 0)
    back = sum(discount[min(count, 3)] for count in there.values()) / total
    return (own - discount[min(own, 3)]) / total + back * lower


@settings(deadline=None, max_examples=30)
@given(streams, streams)
def test_it_is_the_recursion(stream: list[int], asked: list[int]) -> None:
    triples = Counter(zip(stream, stream[1:], stream[2:]))
    pairs: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in triples)
    pairs[stream[0], stream[1]] += 1
    ones: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in pairs)
    ones[(stream[0],)] += 1
    counts: list[Counter[tuple[int, ...]]] = [ones, pairs, Counter(triples)]
    expected = [_slowly(stream, (a, b), c, counts) for a, b, c in zip(asked, asked[1:], asked[2:])]
    assert Trigram(stream, V).probabilities(asked) == pytest.approx(expected)


def test_it_learns_a_source_of_second_order(rng: np.random.Generator) -> None:
    def sample(length: int) -> list[int]:
        out = [0, 1]
        for _ in range(length):
            out.append(int((out[-1] + out[-2]) % V if rng.random() < 0.9 else rng.integers(V)))
        return out

    test = sample(2000)
    surprise = -Trigram(sample(20_000), V).log_probability(test) / (len(test) - 2)
    likely = 0.9 + 0.1 / V
    entropy = -likely * np.log(likely) - (1 - likely) * np.log(0.1 / V)
    assert surprise == pytest.approx(entropy, rel=0.1)


def test_bad_streams_are_refused() -> None:
    with pytest.raises(BadInput, match="three"):
        Trigram([1, 2], V)
    with pytest.raises(BadInput, match=r"0\.\.5"):
        Trigram([1, 2, 6], V)
    with pytest.raises(BadInput, match="stream"):
        Trigram(np.zeros((3, 3), int), V)
