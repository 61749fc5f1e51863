"""The choice of schemes: the paper's formulas by hand, and what must hold of any choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels.convolution import ConvShape, Scheme, refusal
from ondevice.runtime.preinfer.schemes import (
    Always,
    Rates,
    Selector,
    paper_choice,
    paper_cost,
    strassen_levels,
)

TILES = {1: ((1, 1.2e-9), (14, 4e-9)), 2: ((1, 1.3e-9), (14, 8e-9))}
RATES = Rates(lanes=16, rows=14, tiles=TILES, operation=5e-10, row=2e-8, bandwidth=3e10, step=1e-6)


def same(channels: int, outputs: int, size: int, kernel: int, stride: int = 1) -> ConvShape:
    pads = ((kernel - 1) // 2,) * 4
    return ConvShape(1, channels, outputs, size, size, (kernel, kernel), (stride, stride), pads)


def test_the_cost_of_the_paper() -> None:
    """Equation 2 for F(2 x 2, 3 x 3), 8 to 16 channels: (2 8 4^3 + 8 16 4^2 + 2 4 (4 + 2) 16) / 2^2."""
    assert paper_cost(2, 3, 8, 16) == (2 * 8 * 64 + 8 * 16 * 16 + 2 * 4 * 6 * 16) / 4
    assert paper_cost(1, 3, 8, 16) == 8 * 16 * 9


def test_what_the_paper_chooses() -> None:
    assert paper_choice(same(64, 64, 56, 3)).kind == "winograd"
    assert paper_choice(same(64, 64, 56, 3, 2)) == Scheme("direct")  # a stride
    assert paper_choice(same(1, 1, 56, 3)) == Scheme(
        "direct"
    )  # transforms of one channel cost more than they save
    assert paper_choice(ConvShape(1, 1024, 1024, 32, 32, (1, 1))).kind == "strassen"


def test_the_limit_of_strassens_recursion() -> None:
    """Equation 3 by hand: of 2 x 2 x 2, 1 multiplication saved is no more than 15 additions; of 1024, 134 million are
    more than 4 million."""
    assert strassen_levels(2, 2, 2) == 0
    assert strassen_levels(30, 30, 30) == 0  # 15^3 = 15 * 15^2
    assert strassen_levels(32, 32, 32) == 1  # 16^3 > 15 * 16^2
    assert strassen_levels(1024, 1024, 1024) == 6


@given(
    channels=st.integers(1, 600), outputs=st.integers(1, 600), size=st.integers(3, 112),
    kernel=st.sampled_from((1, 3, 5, 7)), stride=st.integers(1, 2), planar=st.booleans(), threads=st.integers(1, 4),
)  # fmt: skip
def test_the_choice_is_the_cheapest_that_can_be_used(
    channels: int, outputs: int, size: int, kernel: int, stride: int, planar: bool, threads: int
) -> None:
    shape = same(channels, outputs, size, kernel, stride)
    choice = Selector(RATES, threads).choose(shape, planar=planar)
    assert choice.seconds == min(seconds for _, seconds in choice.considered) > 0
    for scheme, _ in choice.considered:
        assert not refusal(shape, scheme, RATES.lanes, 1 if planar else RATES.lanes)
    assert {scheme.kind for scheme, _ in choice.considered} >= {"direct", "im2col"}


def test_the_choice_follows_the_shape() -> None:
    """Large pictures pay for large tiles; on few pixels and many channels the weights of large tiles cost more."""
    selector = Selector(RATES)
    large, small = (selector.choose(same(c, c, s, 3)).scheme for c, s in ((64, 112), (512, 7)))
    assert large.kind == small.kind == "winograd"
    assert large.tile > small.tile
    assert selector.choose(same(64, 64, 56, 3, 2)).scheme.kind in ("direct", "im2col")


def test_no_choice_looks_at_rates_of_other_tiles_than_the_machine_has() -> None:
    slow = Rates(16, 14, TILES, 1e-6, 2e-8, 3e10, 1e-6)  # transforms that take for ever
    assert Selector(slow).choose(same(64, 64, 56, 3)).scheme.kind == "direct"


def test_a_fixed_policy_falls_back_to_direct() -> None:
    policy = Always(Selector(RATES), Scheme("winograd", (2, 2)))
    assert policy.choose(same(64, 64, 56, 3)).scheme == Scheme("winograd", (2, 2))
    assert policy.choose(same(64, 64, 56, 3, 2)).scheme == Scheme("direct")
    row = ConvShape(1, 64, 64, 17, 17, (1, 7), pads=(0, 3, 0, 3))
    assert policy.choose(row).scheme == Scheme("winograd", (1, 2))


def test_groups_without_a_kernel_are_refused() -> None:
    with pytest.raises(BadInput, match="no scheme here"):
        Selector(RATES).choose(ConvShape(1, 32, 32, 8, 8, (3, 3), groups=4))
