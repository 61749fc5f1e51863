"""What happened when: spans on named lanes, how they overlap, and a trace that Chrome and Perfetto open.

Knows clocks. Knows nothing of what the spans are.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput


@dataclass(frozen=True)
class Span:
    """lane: the resource that was busy ("disk", "compute", …). start, end: seconds since the timeline began.
    facts: whatever belongs to it (bytes, layer, …), JSON."""

    lane: str
    name: str
    start: float
    end: float
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Timeline:
    """Spans as they are recorded, from any thread. clock: seconds; a simulator hands in its own."""

    def __init__(self, clock: Any = time.perf_counter) -> None:
        self._clock = clock
        self._begin: float = clock()
        self._lock = threading.Lock()
        self.spans: list[Span] = []

    @contextmanager
    def span(self, lane: str, name: str, **facts: Any) -> Iterator[None]:
        """Record the block, also where it ends by an error."""
        start = self._clock()
        try:
            yield
        finally:
            self.record(lane, name, start, self._clock(), **facts)

    def record(self, lane: str, name: str, start: float, end: float, **facts: Any) -> None:
        """A span by its times on the timeline's clock. Raises BadInput where it ends before it starts."""
        if end < start:
            raise BadInput(f"span {name!r} ends {start - end:g} s before it starts")
        with self._lock:
            self.spans.append(Span(lane, name, start - self._begin, end - self._begin, facts))

    def busy(self, *lanes: str) -> float:
        """Seconds in which any of the lanes is busy; all lanes where none is named."""
        return _length(_union(span for span in self.spans if not lanes or span.lane in lanes))

    def overlap(self, one: str, other: str) -> float:
        """Seconds in which both lanes are busy."""
        return self.busy(one) + self.busy(other) - self.busy(one, other)

    def chrome_trace(self) -> dict[str, Any]:
        """The Trace Event Format: a complete event a span, a thread a lane, microseconds."""
        lanes = {lane: number for number, lane in enumerate(dict.fromkeys(span.lane for span in self.spans))}
        names = [
            {"ph": "M", "pid": 0, "tid": number, "name": "thread_name", "args": {"name": lane}}
            for lane, number in lanes.items()
        ]
        events = [
            {"ph": "X", "pid": 0, "tid": lanes[span.lane], "name": span.name, "cat": span.lane,
             "ts": 1e6 * span.start, "dur": 1e6 * span.seconds, "args": span.facts}
            for span in sorted(self.spans, key=lambda span: span.start)
        ]  # fmt: skip
        return {"traceEvents": names + events, "displayTimeUnit": "ms"}

    def write(self, path: str | Path) -> None:
        """Write the trace for chrome://tracing or ui.perfetto.dev."""
        Path(path).write_text(json.dumps(self.chrome_trace()))


def _union(spans: Iterable[Span]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for start, end in sorted((span.start, span.end) for span in spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _length(intervals: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in intervals)
