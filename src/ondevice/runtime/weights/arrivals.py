"""A buffer of units that come and go: one thread reads into it, what is asked for before what is guessed.

Knows extents, a policy and a storage. Knows nothing of what a unit is. Where a unit needs room, the run of neighbours
is dropped whose most valued one is worth least; what is asked for, in use or on its way is never dropped.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ondevice.devices.storage import Storage, Ticket
from ondevice.errors import OndeviceError
from ondevice.measure.timeline import Timeline
from ondevice.runtime.weights.eviction import Policy, Unit
from ondevice.runtime.weights.extents import Chunk, Extents
from ondevice.runtime.weights.source import Bytes, check

_DEPTH = 2  # chunks of what was asked for on their way at once: the storage need not wait for this thread
_STAYS, _DONE_WITH = float("inf"), float("-inf")
_GUESSED = 1e300  # what a guess is worth, until its layer has asked, where it cannot be weighed


@dataclass(frozen=True)
class ExpertStats:
    """Units asked for that were there ("hits"), were on their way because they had been guessed ("late"), and were not
    ("misses"); bytes read, and of those that were guessed in vain; seconds that computation waited."""

    hits: int = 0
    late: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_wasted: int = 0
    stall_seconds: float = 0.0


@dataclass
class Entry:
    """A unit in the buffer. made: of its tensors, by whoever asked for it first."""

    unit: Unit
    at: int
    extents: Extents
    begun: int = 0  # chunks
    done: int = 0
    guessed: bool = False  # and not asked for since
    failed: bool = False
    made: Any = None

    @property
    def ready(self) -> bool:
        return self.done == len(self.extents.chunks) and not self.failed

    @property
    def busy(self) -> bool:
        """Whether reads into it go on."""
        return self.begun > self.done


@dataclass
class _Wanted:
    """asked: units that computation waits for or uses now. missing: those to be read, in order. guesses: units and
    their worth, best first; worth: of those of them that are there or on their way."""

    asked: set[Unit] = field(default_factory=set)
    missing: deque[Unit] = field(default_factory=deque)
    guesses: deque[tuple[Unit, float]] = field(default_factory=deque)
    worth: dict[Unit, float] = field(default_factory=dict)


class Arrivals:
    """The buffer and its thread, which ends with `stop`."""

    def __init__(
        self,
        units: Mapping[Unit, Extents],
        buffer: Bytes,
        policy: Policy,
        storage: Storage,
        timeline: Timeline | None = None,
    ) -> None:
        self.buffer, self._counts = buffer, Counter[str]()
        self._units, self._policy, self._storage, self._timeline = units, policy, storage, timeline
        self._entries: dict[Unit, Entry] = {}
        self._wanted = _Wanted()
        self._unchecked = {
            part.name for each in units.values() for part, _ in each.places if part.place.sha256
        }
        self._going: deque[tuple[Entry, Chunk, Ticket]] = deque()
        self._problem: OndeviceError | None = None
        self._turn = threading.RLock()  # a collector may end the thread from within it
        self._begun, self._came = threading.Condition(self._turn), threading.Condition(self._turn)
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, name="experts", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, when what it reads has come."""
        with self._turn:
            self._stopped = True
            self._begun.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def stats(self) -> ExpertStats:
        """So far."""
        with self._turn:
            counts = dict(self._counts)
        return ExpertStats(
            **{name: int(value) for name, value in counts.items() if name != "stall_seconds"},
            stall_seconds=float(counts.get("stall_seconds", 0.0)),
        )

    def ask(self, units: Sequence[Unit]) -> None:
        """Begin to read what is not there, and give up what was guessed of these units' layer beside them."""
        with self._turn:
            self._policy.begin(units)
            layers, wanted = {unit[0] for unit in units}, self._wanted
            self._problem, wanted.asked = None, set(units)
            if wanted.guesses:
                wanted.guesses = deque(each for each in wanted.guesses if each[0][0] not in layers)
            if wanted.worth:
                wanted.worth = {unit: worth for unit, worth in wanted.worth.items() if unit[0] not in layers}
            wanted.missing.clear()
            for unit in units:
                entry = self._entries.get(unit)
                ready = entry is not None and entry.ready
                if not ready:
                    wanted.missing.append(unit)
                self._counts["hits" if ready else "misses" if entry is None else "late"] += 1
                if entry is not None:
                    entry.guessed = False
            self._fill()

    def guess(self, worth: Mapping[Unit, float]) -> None:
        """Read these when nothing that was asked for is missing."""
        with self._turn:
            wanted, there = self._wanted, self._entries
            wanted.worth = {unit: value for unit, value in worth.items() if unit in there}
            order = sorted((unit for unit in worth if unit not in there), key=lambda unit: -worth[unit])
            wanted.guesses = deque((unit, worth[unit]) for unit in order)
            self._fill()

    def next_of(self, units: Sequence[Unit], done: Unit | None = None) -> tuple[Entry, bool]:
        """The first of these that is there, and whether it was waited for; `done` is not used any more. Raises what
        made one of them unreadable."""
        with self._turn:
            started = 0.0
            if done is not None:
                self._let_go((done,))
            while True:
                for unit in units:
                    entry = self._entries.get(unit)
                    if entry is not None and entry.ready:
                        if started:
                            self._counts["stall_seconds"] += perf_counter() - started  # type: ignore[assignment]
                        return entry, started > 0
                if self._problem is not None:
                    raise self._problem
                started = started or perf_counter()
                self._came.wait()

    def release(self, units: Sequence[Unit]) -> None:
        """These are not used any more."""
        with self._turn:
            self._let_go(units)

    def _let_go(self, units: Sequence[Unit]) -> None:
        wanted = self._wanted
        wanted.asked.difference_update(units)
        if wanted.missing:
            wanted.missing = deque(unit for unit in wanted.missing if unit in wanted.asked)
            self._fill()

    def _serve(self) -> None:
        while True:
            with self._turn:
                while not self._going:
                    if self._stopped:
                        return
                    self._begun.wait()
                entry, chunk, ticket = self._going[0]
            problem: OndeviceError | None = None
            try:
                read = ticket.wait()
                if entry.done + 1 == len(entry.extents.chunks) and not entry.failed:
                    self._check(entry)
                if self._timeline is not None:
                    name = f"expert {entry.unit}"
                    self._timeline.record("disk", name, read.started, read.ended, bytes=chunk.nbytes)
            except OndeviceError as failed:
                problem = failed
            with self._turn:
                self._going.popleft()
                entry.done += 1
                if problem is not None:
                    self._fail(entry, problem)
                if entry.failed and not entry.busy:
                    del self._entries[entry.unit]
                if entry.ready or entry.failed:
                    self._came.notify()
                self._fill()

    def _fill(self) -> None:
        """Begin reads as far as they may go on at once."""
        while len(self._going) < _DEPTH and (found := self._next_chunk()):
            entry, chunk = found
            memory = self.buffer[entry.at + chunk.at : entry.at + entry.extents.nbytes]
            try:
                ticket = self._storage.read(chunk.path, chunk.offset, chunk.nbytes, memory)
            except OndeviceError as problem:
                entry.begun -= 1
                self._fail(entry, problem)
                if not entry.busy:
                    del self._entries[entry.unit]
                self._came.notify()
                continue
            self._going.append((entry, chunk, ticket))
            self._counts["bytes_read"] += chunk.nbytes
            self._begun.notify()

    def _fail(self, entry: Entry, problem: OndeviceError) -> None:
        """A unit cannot be read: whoever waits for it is told. A guess that fails is forgotten."""
        entry.failed = True
        wanted = self._wanted
        if entry.unit in wanted.asked:
            self._problem = problem
        wanted.missing = deque(unit for unit in wanted.missing if unit != entry.unit)
        wanted.guesses = deque(each for each in wanted.guesses if each[0] != entry.unit)

    def _next_chunk(self) -> tuple[Entry, Chunk] | None:
        wanted = self._wanted
        if self._stopped:
            return None
        blocked = False
        for unit in wanted.missing:
            entry = self._entries.get(unit) or self._enter(unit, None)
            if entry is None or entry.failed:
                blocked = (
                    True  # until something is released, such as one of the next, or a failed read is over
                )
            elif entry.begun < len(entry.extents.chunks):
                return self._begin(entry)
        if blocked:
            return None
        while wanted.guesses and not self._going:  # one, so that what is asked for next waits for no more
            unit, worth = wanted.guesses[0]
            entry = self._entries.get(unit) or self._enter(unit, worth)
            if entry is not None and not entry.failed and entry.begun < len(entry.extents.chunks):
                return self._begin(entry)
            wanted.guesses.popleft()
        return None

    @staticmethod
    def _begin(entry: Entry) -> tuple[Entry, Chunk]:
        entry.begun += 1
        return entry, entry.extents.chunks[entry.begun - 1]

    def _enter(self, unit: Unit, worth: float | None) -> Entry | None:
        """Make room; None where there is none, or none that is worth less than a guess."""
        extents = self._units[unit]
        place = self._room(extents.nbytes, worth)
        if place is None:
            return None
        at, dropped = place
        for other in dropped:
            entry = self._entries.pop(other)
            if entry.guessed:
                read = entry.extents.chunks[: entry.begun]
                self._counts["bytes_wasted"] += sum(chunk.nbytes for chunk in read)
        entry = self._entries[unit] = Entry(unit, at, extents, guessed=worth is not None)
        if worth is not None:
            self._wanted.worth[unit] = worth
        return entry

    def _room(self, size: int, worth: float | None) -> tuple[int, list[Unit]] | None:
        """Where a unit of that size goes, and what it drives out."""
        there = sorted(self._entries.values(), key=lambda entry: entry.at)
        values = [self._value(entry) for entry in there]
        stops = [entry.at + entry.extents.nbytes for entry in there]
        best: tuple[float, int, int, int] | None = None
        for first, at in enumerate([0, *stops]):
            last, value = first, _DONE_WITH
            while last < len(there) and there[last].at < at + size:
                value = max(value, values[last])
                last += 1
            if at + size <= self.buffer.size and (best is None or value < best[0]):
                best = value, at, first, last
        if best is None or best[0] == _STAYS:
            return None
        if worth is not None and self._policy.weighs and best[0] >= worth:
            return None
        return best[1], [entry.unit for entry in there[best[2] : best[3]]]

    def _value(self, entry: Entry) -> float:
        """What keeping it is worth."""
        if entry.busy or entry.unit in self._wanted.asked:
            return _STAYS
        if not entry.ready and entry.unit not in self._wanted.worth:
            return _DONE_WITH  # a guess that was given up half way
        keep, guess = self._policy.keep(entry.unit), self._wanted.worth.get(entry.unit)
        if guess is None:
            return keep
        return max(keep, guess) if self._policy.weighs else _GUESSED

    def _check(self, entry: Entry) -> None:
        for part, first in entry.extents.places:
            if part.name in self._unchecked:
                stored = self.buffer[entry.at + first :][: part.nbytes]
                check(part.name, part.place, hashlib.sha256(stored.data))
                self._unchecked.discard(part.name)
