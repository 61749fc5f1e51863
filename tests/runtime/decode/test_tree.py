"""Trees: orphans, and the best shape by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.runtime.decode.speculative import TreePace
from ondevice.runtime.decode.tree import Path, Shape, Tree, expected_tokens, grow

RATES = st.lists(st.lists(st.floats(0, 0.3), min_size=2, max_size=2), min_size=1, max_size=3).map(np.array)


@settings(max_examples=40, deadline=None)
@given(RATES, st.integers(1, 5))
def test_no_tree_of_the_same_size_expects_more(rates: np.ndarray, nodes: int) -> None:
    paths: list[Path] = [
        path for depth in range(1, len(rates) + 1) for path in itertools.product(range(2), repeat=depth)
    ]

    def expected(chosen: tuple[Path, ...]) -> float:
        return 1 + sum(np.prod([rates[at, rank] for at, rank in enumerate(path)]) for path in chosen)

    best = max(
        expected(chosen)
        for chosen in itertools.combinations(paths, min(nodes, len(paths)))
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    )
    grown = grow(rates, nodes)
    assert expected_tokens(grown)[-1] == pytest.approx(best)
    Shape(tuple(path for path, _ in grown))  # no orphan


def test_orphans_are_refused() -> None:
    with pytest.raises(BadInput, match=r"node \[0, 1\] is an orphan"):
        Shape(((1,), (0, 1)))
    with pytest.raises(BadInput, match="token 2 of the tree is an orphan"):
        Tree((5, 6, 7), (1, 1, 3), (0, 1, 0))
    with pytest.raises(BadInput, match="a depth and a rank"):
        Tree((5, 6), (1,), (0,))
    with pytest.raises(BadInput, match="from 0 to 1"):
        grow(np.array([[1.5]]), 2)
    with pytest.raises(BadInput, match="1 to 63"):
        TreePace(64)


def test_a_tree_is_cut_and_walked() -> None:
    tree = Shape(((0,), (0, 0), (0, 1), (1,), (0, 0, 0))).filled([[5, 6], [7, 8], [9]])
    assert tree.tokens == (5, 7, 9, 8, 6)
    assert [tree.after(node) for node in range(-1, 5)] == [[0, 4], [1, 3], [2], [], [], []]
    assert tree.cut(1).tokens == (5, 6)
    assert tree.trunk().tokens == (5, 7, 9)
    assert not tree.trunk().branched
    assert tree.branched
    assert Tree.chain([4, 4]).after(0) == [1]
