from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.timeline import Timeline

INTERVALS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20), st.sampled_from("ab")), max_size=12)


def recorded(intervals: list[tuple[int, int, str]]) -> Timeline:
    timeline = Timeline(clock=lambda: 0.0)
    for start, length, lane in intervals:
        timeline.record(lane, "x", start, start + length)
    return timeline


@given(INTERVALS)
def test_busy_and_overlap_match_a_count_of_moments(intervals: list[tuple[int, int, str]]) -> None:
    moments = {lane: np.zeros(80, bool) for lane in "ab"}
    for start, length, lane in intervals:
        moments[lane][start : start + length] = True
    timeline = recorded(intervals)
    assert timeline.busy("a") == moments["a"].sum()
    assert timeline.busy() == (moments["a"] | moments["b"]).sum()
    assert timeline.overlap("a", "b") == (moments["a"] & moments["b"]).sum()


def test_a_block_is_recorded_even_where_it_fails() -> None:
    ticks = iter([10.0, 11.0, 14.0])
    timeline = Timeline(clock=lambda: next(ticks))
    with pytest.raises(RuntimeError), timeline.span("disk", "read", bytes=4096):
        raise RuntimeError
    [span] = timeline.spans
    assert (span.lane, span.start, span.end, span.facts) == ("disk", 1.0, 4.0, {"bytes": 4096})


def test_the_trace_is_what_chrome_reads(tmp_path: Path) -> None:
    timeline = recorded([(5, 1, "b"), (1, 2, "a")])
    timeline.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = [(names[event["tid"]], event["ts"], event["dur"]) for event in events if event["ph"] == "X"]
    assert spans == [("a", 1e6, 2e6), ("b", 5e6, 1e6)]


def test_a_span_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(BadInput, match="ends 2 s before"):
        Timeline().record("disk", "read", 5.0, 3.0)
