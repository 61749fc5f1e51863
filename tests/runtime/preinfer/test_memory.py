"""Offsets of buffers in one arena."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.runtime.preinfer.memory import Lifetime, plan_memory

LIFETIMES = st.builds(
    lambda size, first, length: Lifetime(size, first, first + length),
    st.integers(0, 1000), st.integers(0, 30), st.integers(0, 10),
)  # fmt: skip


@given(buffers=st.lists(LIFETIMES, max_size=25), alignment=st.sampled_from((1, 16)))
def test_buffers_that_live_together_lie_apart(buffers: list[Lifetime], alignment: int) -> None:
    plan = plan_memory(buffers, alignment=alignment)
    assert all(offset % alignment == 0 and offset >= 0 for offset in plan.offsets)
    for i, a in enumerate(buffers):
        assert plan.offsets[i] + a.size <= plan.size
        for j, b in enumerate(buffers[:i]):
            if a.first <= b.last and b.first <= a.last:
                assert (
                    plan.offsets[i] + a.size <= plan.offsets[j] or plan.offsets[j] + b.size <= plan.offsets[i]
                )
    assert plan.bound <= plan.size <= plan.total
    live = [sum(it.size for it in buffers if it.first <= step <= it.last) for step in range(41)]
    assert plan.bound >= max(live)
    if alignment == 1:
        assert plan.bound == max(live)


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    """Oracle: each layer reads the result before it, so the arena is the largest pair; the ends alternate."""
    sizes = [100, 300, 200, 400, 50, 350, 10]
    chain = [Lifetime(size, step, step + 1) for step, size in enumerate(sizes)]
    plan = plan_memory(chain)
    assert plan.size == plan.bound == max(a + b for a, b in pairwise(sizes))
    assert plan.total == sum(sizes)


@given(buffers=st.lists(LIFETIMES, max_size=25), seed=st.integers(0, 5))
def test_the_same_seed_gives_the_same_plan(buffers: list[Lifetime], seed: int) -> None:
    assert plan_memory(buffers, seed=seed) == plan_memory(list(buffers), seed=seed)


def test_a_case_that_largest_first_misses() -> None:
    """Orders are drawn where the simple ones leave a gap."""
    buffers = [
        Lifetime(s, f, e) for s, f, e in ((3, 0, 2), (4, 1, 4), (2, 3, 6), (5, 5, 8), (3, 3, 9), (1, 0, 9))
    ]
    assert plan_memory(buffers).size <= 1.2 * plan_memory(buffers).bound


def test_bad_lifetimes_are_refused() -> None:
    with pytest.raises(BadInput, match="steps in order"):
        Lifetime(4, 3, 2)
    with pytest.raises(BadInput, match="alignment is 1 or more"):
        plan_memory([], alignment=0)
