"""Power: energy between two moments against a closed form; phases sum to the whole; a short trace is refused."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.devices.profile import load
from ondevice.errors import BadInput
from ondevice.measure.energy import Rapl
from ondevice.measure.power import PowerMeter, PowerTrace, by_phase
from ondevice.measure.timeline import Span


def test_energy_of_a_ramp_is_its_integral() -> None:
    seconds = np.linspace(0, 2, 2001)
    trace = PowerTrace(list(seconds), list(1.5 * seconds**2), "modelled")  # watts 3 t
    assert trace.between(0.3, 1.7) == pytest.approx(1.5 * (1.7**2 - 0.3**2), rel=1e-4)
    assert trace.total == pytest.approx(6.0)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8))
def test_phases_that_tile_the_run_sum_to_the_whole(cuts: list[float]) -> None:
    trace = PowerTrace([0, 1, 4, 10], [0, 5, 5, 30], "measured")
    ends = [0.0, *sorted(cuts), 10.0]
    spans = [Span("phase", f"p{i % 3}", a, b) for i, (a, b) in enumerate(pairwise(ends))]
    assert sum(by_phase(trace, spans).values()) == pytest.approx(trace.total)


def test_a_trace_shorter_than_the_run_is_refused() -> None:
    trace = PowerTrace([1, 2], [0, 1], "measured")
    with pytest.raises(BadInput, match="shorter than the run"):
        by_phase(trace, [Span("phase", "a", 0.5, 2.0)])
    with pytest.raises(BadInput, match="shorter than the run"):
        trace.between(1.5, 2.5)
    with pytest.raises(BadInput, match="order of time"):
        PowerTrace([1, 1], [0, 1], "measured")
    with pytest.raises(BadInput, match="cannot fall"):
        PowerTrace([1, 2], [1, 0], "measured")


@pytest.mark.skipif(Rapl().readable, reason="this processor's counters can be read")
def test_modelled_energy_lies_between_idle_and_active() -> None:
    board = load("raspberry-pi-5")
    with PowerMeter(board) as meter:
        start = time.perf_counter()
        while time.perf_counter() - start < 0.1:
            pass
    trace = meter.trace
    took = trace.seconds[-1] - trace.seconds[0]
    assert trace.kind == "modelled"
    assert board.power["idle"].value * took <= trace.total <= board.power["active"].value * took
    with pytest.raises(BadInput, match="no device with power"):
        PowerMeter()
