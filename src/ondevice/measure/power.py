"""A power trace of this process, and its energy cut by phase.

Knows the processor's counters and processor time. Knows nothing of what the phases do: they are spans of a timeline.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

from ondevice.devices.profile import Device
from ondevice.errors import BadInput
from ondevice.measure.energy import Rapl
from ondevice.measure.timeline import Span
from ondevice.measure.timing import Provenance

_EVERY = 0.02  # seconds between two readings


@dataclass(frozen=True)
class PowerTrace:
    """seconds: on the clock of `time.perf_counter`. joules: since the first reading, never falling. kind: measured by
    counters, or modelled from processor time and a device's idle and active power."""

    seconds: Sequence[float]
    joules: Sequence[float]
    kind: Provenance

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.seconds, self.seconds[1:]))
        if len(self.seconds) < 2 or len(self.seconds) != len(self.joules) or not rising:
            raise BadInput("a power trace needs two readings or more, in the order of time")
        if any(b < a for a, b in zip(self.joules, self.joules[1:])):
            raise BadInput("the energy of a power trace cannot fall")

    @property
    def total(self) -> float:
        """Joules from the first reading to the last."""
        return self.joules[-1] - self.joules[0]

    def between(self, start: float, end: float) -> float:
        """Joules between two moments; power is even between two readings. BadInput where it was not read."""
        if start < self.seconds[0] or end > self.seconds[-1]:
            raise BadInput(
                f"the power trace is shorter than the run: it covers {self.seconds[-1] - self.seconds[0]:.3f} s, and "
                f"{max(self.seconds[0] - start, end - self.seconds[-1]):.3f} s more are asked for"
            )
        return self._until(end) - self._until(start)

    def _until(self, moment: float) -> float:
        after = min(bisect_right(self.seconds, moment), len(self.seconds) - 1)
        share = (moment - self.seconds[after - 1]) / (self.seconds[after] - self.seconds[after - 1])
        return self.joules[after - 1] + share * (self.joules[after] - self.joules[after - 1])


def by_phase(trace: PowerTrace, spans: Iterable[Span], begin: float = 0.0) -> dict[str, float]:
    """Joules of each name of spans; spans of one name add up. begin: the clock at the spans' zero.

    BadInput where the trace is shorter than the spans.
    """
    joules: dict[str, float] = {}
    for span in spans:
        joules[span.name] = joules.get(span.name, 0.0) + trace.between(begin + span.start, begin + span.end)
    return joules


class PowerMeter:
    """Reads power while a `with` block runs; `trace` afterwards.

    By the processor's counters where they can be read (the whole package, whatever else runs), else modelled from
    `device`: idle power all the time, and of what it draws more when active the share of its cores that this process
    kept busy. Raises BadInput where neither is possible.
    """

    def __init__(self, device: Device | None = None, rapl: Rapl | None = None) -> None:
        self._rapl = rapl or Rapl()
        if not self._rapl.readable and (device is None or not device.power):
            raise BadInput(
                "the processor's energy counters cannot be read, and no device with power figures was given"
            )
        self._device, self._stop = device, threading.Event()
        self._seconds: list[float] = []
        self._joules: list[float] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PowerMeter:
        self._first = self._rapl.joules(), time.perf_counter(), time.process_time()
        self._read()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._read()

    @property
    def trace(self) -> PowerTrace:
        """What was read."""
        kind: Provenance = "measured" if self._rapl.readable else "modelled"
        return PowerTrace(tuple(self._seconds), tuple(self._joules), kind)

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            self._read()

    def _read(self) -> None:
        counters, start, processor = self._first
        now = time.perf_counter()
        if self._rapl.readable:
            joules = self._rapl.since(counters)
        else:
            assert self._device is not None
            power, cores = self._device.power, self._device.cores.value
            busy = (time.process_time() - processor) / cores
            joules = power["idle"].value * (now - start)
            joules += (power["active"].value - power["idle"].value) * busy
        self._seconds.append(now)
        self._joules.append(joules)
