"""Orders of restoration: what no order can beat, and the best of few operations found by trying all of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.devices.simulate.pipeline import Op, bounds, simulate
from ondevice.errors import BadInput
from ondevice.runtime.schedule.restoration import (
    CPU,
    NPU,
    POLICIES,
    Compute,
    Policy,
    Restoration,
    Restore,
    graph,
)

times = st.floats(0, 5).map(lambda value: round(value, 3))


@st.composite
def chains(draw: st.DrawFn) -> list[Compute]:
    chain = []
    for number in range(draw(st.integers(1, 6))):
        restore = tuple(
            Restore(
                draw(times),
                draw(times),
                draw(times),
                (draw(st.integers(1, 4)), draw(st.integers(1, 4))),
                sealed,
            )
            for sealed in draw(st.lists(st.booleans(), max_size=2))
        )
        chain.append(Compute(f"{number}", draw(st.sampled_from([CPU, NPU])), draw(times), restore))
    return chain


def makespan(chain: list[Compute], policy: Policy) -> float:
    return max(ran.end for ran in simulate(Restoration(graph(chain)[0], policy)))


@given(chains())
@settings(max_examples=60, deadline=None)
def test_every_policy_does_everything_in_order_and_none_beats_the_bounds(chain: list[Compute]) -> None:
    ops, numbers = graph(chain)
    least = bounds(ops)
    assert numbers == [number for number, op in enumerate(ops) if op.kind == "compute"]
    for policy in POLICIES:
        schedule = Restoration(ops, policy)
        ran = simulate(schedule)
        first, last = dict[int, float](), dict[int, float]()
        for each in ran:
            first.setdefault(each.number, each.start)
            last[each.number] = each.end
        assert len(ran) == sum(op.pieces for op in schedule.ops)
        for number, op in enumerate(schedule.ops):
            assert all(last[need] <= first[number] + 1e-9 for need in op.needs)
        for lane in {op.lane for op in ops}:  # one thing at a time
            spans = sorted((it.start, it.end) for it in ran if ops[it.number].lane == lane)
            assert all(one[1] <= other[0] + 1e-9 for one, other in itertools.pairwise(spans))
        assert max(last.values()) >= least.seconds - 1e-6
        if policy == "serial":
            assert max(last.values()) == pytest.approx(sum(op.seconds for op in ops))


def test_a_pipeline_by_hand() -> None:
    """Two products of 4 s, each with 1 s of allocation, 3 of reading, 1 of decryption: 1 + 3 + 1, then 4 + 4, in which
    all else happens."""
    chain = [Compute(f"{number}", NPU, 4, (Restore(1, 3, 1),)) for number in range(2)]
    assert makespan(chain, "serial") == pytest.approx(2 * (1 + 3 + 1 + 4))
    for policy in ("fifo", "priority", "preempt"):
        assert makespan(chain, policy) == pytest.approx(1 + 3 + 1 + 4 + 4)


def test_what_the_model_computes_goes_first_and_does_not_wait_for_long_allocations() -> None:
    """The processor may allocate for a far layer (10 s) when the model's next operation on it becomes ready."""
    chain = [
        Compute("first", NPU, 1),
        Compute("attention", CPU, 1),
        Compute("second", NPU, 8),
        Compute("far", NPU, 1, (Restore(10, 0, 0, pieces=(10, 1)),)),
    ]
    assert makespan(chain, "preempt") == pytest.approx(1 + 10 + 1 + 1, abs=1.01)
    assert makespan(chain, "priority") == pytest.approx(10 + 1 + 8 + 1)
    assert makespan(chain, "fifo") == pytest.approx(10 + 1 + 8 + 1)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="no policy 'best'"):
        Restoration(graph([Compute("a", CPU)])[0], "best")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="needs an operation"):
        graph([])
    with pytest.raises(BadInput, match=r"takes -1\.0 s"):
        graph([Compute("a", CPU, -1.0)])
    with pytest.raises(BadInput, match="do not all come before"):
        bounds([Op("a", CPU, "compute", needs=(1,)), Op("b", CPU, "compute")])
