"""Weights that are read while the decoder computes: some locked in memory, the rest streamed through a ring.

Knows stages, their order, and memory. Knows nothing of kernels, nor of which parts had better be locked
(`runtime.residency`). A decoder uses every weight once a token, in the same order: what comes next is known, so it is
read ahead, from the last stages of one pass into the first of the next, as far as the ring has room.

Source: Du et al. 2025, "FlexInfer: Breaking Memory Constraint via Flexible and Efficient Offloading for On-Device LLM
Inference", sections on asynchronous prefetching and balanced memory locking.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from ondevice.devices.storage import Storage, Ticket
from ondevice.errors import BadInput, OndeviceError
from ondevice.measure.timeline import Timeline
from ondevice.runtime.io import ALIGNED, FileStorage, huge_pages, room
from ondevice.runtime.projection import Stored, Tensors
from ondevice.runtime.table import Table, read_table
from ondevice.runtime.weights.panels import PanelTable
from ondevice.runtime.weights.parts import TABLE, Part, Stage, place_of
from ondevice.runtime.weights.source import Bytes, HeldTensor, Key, Resident, check


@dataclass(frozen=True)
class _Loading:
    """A stage on its way into the ring, or there."""

    number: int
    tickets: list[tuple[Part, Bytes, Ticket]]


class Streamed(Resident):
    """A decoder's tensors, the parts of some stages only there while they are held.

    stages: of a pass, in order, see `parts.stages_of`. locked: names of the parts that stay in memory. ring_bytes:
    for the others; at least `ring_least(stages, locked)`. prefetch: read ahead; else a stage is read when it is held.
    timeline: gets a span of lane "disk" for every read, "wait" for every wait, "compute" for every stage.
    direct: whether all reads so far went past the page cache.
    """

    def __init__(
        self,
        tensors: Tensors,
        stages: Sequence[Stage],
        *,
        locked: Collection[str],
        ring_bytes: int,
        storage: Storage | None = None,
        prefetch: bool = True,
        timeline: Timeline | None = None,
    ) -> None:
        self.storage = storage or FileStorage()
        self.bytes_read = self.bytes_resident = 0
        self.direct, self.timeline, self._prefetch = True, timeline, prefetch
        self._held: dict[str, Stored] = {}
        self._names = list(tensors)
        self._head = [stage for stage in stages if stage.key[0] == "head"]
        bands = [part for stage in self._head for part in stage.parts]
        if bands and all(part.name in locked for part in bands):  # then it is one matrix, and the table too
            name = bands[0].tensor
            self._head = [Stage(("head", 0), (_whole(name, tensors),))]
            locked = {*locked, name}
        stages = [*(stage for stage in stages if stage.key[0] != "head"), *self._head]
        parts = [part for stage in stages for part in stage.parts]
        in_parts = {part.tensor for part in parts}
        for name, tensor in tensors.items():
            by_rows = name == TABLE and place_of(tensor) is not None
            if name not in in_parts and not by_rows:
                self._keep(name, tensor)
        streamed = [
            Stage(stage.key, tuple(part for part in stage.parts if part.name not in locked))
            for stage in stages
        ]
        streamed = [stage for stage in streamed if stage.parts]
        least = max(map(_ring_bytes, streamed), default=0)
        if ring_bytes < least:
            raise BadInput(f"a ring of {ring_bytes} bytes does not hold the largest stage of {least}")
        self._ring = huge_pages(max(ring_bytes, ALIGNED))
        self.bytes_resident += self._ring.size if streamed else 0
        self._stages = streamed
        self._numbers = {stage.key: number for number, stage in enumerate(streamed)}
        self._places = _lay_out(streamed, ring_bytes)
        for stage, place in zip(streamed, self._places):
            for part, memory in self._rooms(stage, place):
                self._held[part.name] = self._view(part, memory)
        self._load([part for part in parts if part.name in locked])
        self.streams_layers = any(stage.key[0] != "head" for stage in streamed)
        self._live: deque[_Loading] = deque()
        self._next = 0
        self._unchecked = {part.name for stage in streamed for part in stage.parts if part.place.sha256}
        self._table: PanelTable | None = None
        in_ring = {part.name for stage in streamed for part in stage.parts}
        for name in in_parts | {TABLE}:
            by_rows = name == TABLE and name in in_ring  # the ring has it only while the head is held
            if name in tensors and (name not in self._held or by_rows):  # it is read in bands, or by rows
                whole = _whole(name, tensors)
                self._check_whole(whole)
                self._unchecked.discard(name)
                if name == TABLE:
                    self._table = PanelTable(whole.format, whole.place, self.storage)
                    self.bytes_resident += self._table.nbytes
        self._formats = {name: tensor.format for name, tensor in tensors.items()}
        self._fill()

    @property
    def bytes_streamed(self) -> int:
        """That each pass reads."""
        return sum(stage.nbytes for stage in self._stages)

    @contextmanager
    def hold(self, key: Key) -> Iterator[None]:
        number = self._numbers.get(key)
        if number is not None:
            self._arrive(number)
        started = time.perf_counter()
        try:
            yield
        finally:
            if self.timeline is not None:
                self.timeline.record("compute", f"{key[0]} {key[1]}", started, time.perf_counter())
            if number is not None:
                self._live.popleft()
                self._fill()

    def head(self, name: str) -> Sequence[tuple[Key, Stored]]:
        if name in self._held:
            return [(("head", 0), self._held[name])]
        return [(stage.key, self._held[stage.parts[0].name]) for stage in self._head]

    def table(self, name: str) -> Table | PanelTable:
        return self._table or read_table(self, name)

    def __getitem__(self, name: str) -> Stored:
        if name in self._held or name not in self._formats:
            return self._held[name]
        return Elsewhere(self._formats[name])

    def _arrive(self, number: int) -> None:
        """Have the parts of a stage in memory."""
        if not self._live or self._live[0].number != number:
            if self._live or self._next != number:
                self._begin_at(number)
            self._load_next()
        started = time.perf_counter()
        try:
            for part, memory, ticket in self._live[0].tickets:
                read = ticket.wait()
                self.direct &= read.direct
                if self.timeline is not None:
                    self.timeline.record("disk", part.name, read.started, read.ended, bytes=part.nbytes)
                if part.name in self._unchecked:
                    stored = memory[part.place.offset % ALIGNED :][: part.nbytes]
                    check(part.name, part.place, hashlib.sha256(stored.data))
                    self._unchecked.remove(part.name)
        except OndeviceError:
            self._begin_at(0)
            raise
        if self.timeline is not None:
            self.timeline.record("wait", f"stage {number}", started, time.perf_counter())

    def _fill(self) -> None:
        """Read ahead as far as there is room."""
        while self._prefetch and self._stages and self._load_next():
            pass

    def _load_next(self) -> bool:
        """Begin to read the next stage; False where those that are still in use leave no room."""
        number = self._next
        first = self._places[number]
        stop = first + _ring_bytes(self._stages[number])
        for loading in self._live:
            other = self._places[loading.number]
            if first < other + _ring_bytes(self._stages[loading.number]) and other < stop:
                return False
        tickets = [
            (part, memory, self._read(part.place, memory))
            for part, memory in self._rooms(self._stages[number], first)
        ]
        self._live.append(_Loading(number, tickets))
        self._next = (number + 1) % len(self._stages)
        return True

    def _begin_at(self, number: int) -> None:
        """Forget what is in the ring; the pass before was broken off."""
        for loading in self._live:
            for _, _, ticket in loading.tickets:
                with suppress(
                    OndeviceError, LookupError, IndexError
                ):  # those that were waited for already too
                    ticket.wait()
        self._live.clear()
        self._next = number

    def _rooms(self, stage: Stage, first: int) -> Iterator[tuple[Part, Bytes]]:
        """Each part's memory where the stage begins at a byte of the ring."""
        for part in stage.parts:
            size = room(part.place.offset, part.nbytes)
            yield part, self._ring[first : first + size]
            first += size

    def _check_whole(self, part: Part) -> None:
        """Check a tensor that is only ever read in pieces."""
        if part.place.sha256 is None:
            return
        digest, step = hashlib.sha256(), 4 << 20
        memory = [huge_pages(step + ALIGNED) for _ in range(2)]
        pieces = [
            replace(part.place, offset=part.place.offset + at, nbytes=min(step, part.nbytes - at))
            for at in range(0, part.nbytes, step)
        ]
        tickets = [self._read(piece, memory[at]) for at, piece in enumerate(pieces[:2])]
        for at, piece in enumerate(pieces):
            tickets[at].wait()
            digest.update(memory[at % 2][piece.offset % ALIGNED :][: piece.nbytes].data)
            if at + 2 < len(pieces):
                tickets.append(self._read(pieces[at + 2], memory[at % 2]))
        check(part.name, part.place, digest)


class Elsewhere(HeldTensor):
    """A tensor that is in memory only by bands or rows: its form is known, its bytes are not here."""

    def __init__(self, format: object) -> None:
        self.format = format  # type: ignore[assignment]

    @property
    def array(self) -> Bytes:  # type: ignore[override]
        raise BadInput("this tensor is larger than the memory that it was given; it is read by bands of rows")


def ring_least(stages: Sequence[Stage], locked: Collection[str]) -> int:
    """Bytes of the smallest ring: the largest stage with what of it is not locked."""
    sizes = [
        _ring_bytes(Stage(stage.key, tuple(part for part in stage.parts if part.name not in locked)))
        for stage in stages
    ]
    return max(sizes, default=0)


def _ring_bytes(stage: Stage) -> int:
    return sum(room(part.place.offset, part.nbytes) for part in stage.parts)


def _lay_out(stages: Sequence[Stage], ring_bytes: int) -> list[int]:
    """Where in the ring each stage begins: one behind the other, from the start again where the end is reached. The
    same in every pass, so that what points into the ring is made once."""
    places, at = [], 0
    for stage in stages:
        size = _ring_bytes(stage)
        if at + size > ring_bytes:
            at = 0
        places.append(at)
        at += size
    return places


def _whole(name: str, tensors: Tensors) -> Part:
    """A tensor as one part. It has a place: parts of it were made."""
    place = place_of(tensors[name])
    assert place is not None
    return Part(name, name, place, tensors[name].format)
