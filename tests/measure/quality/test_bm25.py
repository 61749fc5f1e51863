"""BM25 against its formula spelled out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.quality.bm25 import BM25

words = st.lists(st.sampled_from(["file", "open", "read", "line", "path"]), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=6), words)
def test_scores_are_the_formula(passages: list[list[str]], query: list[str]) -> None:
    mean = sum(map(len, passages)) / len(passages)
    found = BM25([" ".join(passage).upper() + "!" for passage in passages]).scores(", ".join(query))
    for passage, score in zip(passages, found, strict=True):
        expected = 0.0
        for word in query:
            holders = sum(word in other for other in passages)
            rarity = math.log(1 + (len(passages) - holders + 0.5) / (holders + 0.5))
            count = passage.count(word)
            expected += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(passage) / mean))
        assert score == pytest.approx(expected)


def test_no_passages_are_refused() -> None:
    with pytest.raises(BadInput, match="one or more"):
        BM25([])
