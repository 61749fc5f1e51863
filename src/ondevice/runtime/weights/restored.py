"""Weights that come back from storage while the first text is read: allocated, read, decrypted just ahead of their use.

Knows a decoder's stages and the order of restoration (`runtime.schedule.restoration`). Knows nothing of kernels. The
thread that computes and the one that allocates and decrypts take turns as "the processor"; products of matrices are
"the accelerator's" and go on beside it. Once everything is there, nothing more happens until `give_back`.

Source: "TZ-LLM: Protecting On-Device Large Language Models with Arm TrustZone": pipelined restoration; partial
parameter caching, which gives memory back from the end, so that the next text need not wait for its first layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ondevice.artifact import Place
from ondevice.devices.storage import Storage, Ticket
from ondevice.errors import BadInput, OndeviceError
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.io import ALIGNED, FileStorage, room
from ondevice.runtime.projection import Stored, Tensors
from ondevice.runtime.schedule.restoration import CPU, IO, NPU, Compute, Policy, Restoration, Restore, graph
from ondevice.runtime.schedule.turns import Turns
from ondevice.runtime.table import Floats, Rows, Table, read_table
from ondevice.runtime.weights.encrypted import SealedTensor
from ondevice.runtime.weights.parts import TABLE, Part, Stage, head_name, place_of, stages_of
from ondevice.runtime.weights.region import Region
from ondevice.runtime.weights.source import Bytes, HeldTensor, Key, WeightSource, check

_UNIT = 8 << 20  # bytes, about, that are allocated, read and decrypted one after another
_MICRO = 1 << 20  # of allocation or decryption between two points where something else may go first
_TABLE: Key = ("table", 0)
_HEAD: Key = ("head", 0)


class Supply(Protocol):
    """Memory, and what brings bytes into it. memory: where weights are used. window: where reads arrive, the same
    bytes at the same places; it is `memory` itself where they are decrypted in place."""

    memory: Bytes
    window: Bytes

    def allocate(self, start: int, stop: int) -> None:
        """Have these bytes of the window be there; they begin where the last ones stopped."""

    def read(self, place: Place, at: int) -> Ticket:
        """Begin to read a place; it will be `window[at + place.offset % ALIGNED :][: place.nbytes]`."""

    def protect(self, start: int, stop: int) -> None:
        """These bytes have arrived and are decrypted next."""

    def arrived(self, start: int, stop: int) -> None:
        """These bytes of the window are not needed any more."""

    def release(self, start: int) -> None:
        """Wipe and give back everything from here on."""


class OwnMemory:
    """A supply in the memory of this process, into which `storage` reads directly."""

    def __init__(self, nbytes: int, storage: Storage | None = None) -> None:
        self._region, self._storage = Region(nbytes), storage or FileStorage()
        self.memory = self.window = self._region.bytes

    def allocate(self, start: int, stop: int) -> None:
        self._region.touch(start, stop)

    def read(self, place: Place, at: int) -> Ticket:
        into = self.window[at : at + room(place.offset, place.nbytes)]
        return self._storage.read(place.path, place.offset, place.nbytes, into)

    def protect(self, start: int, stop: int) -> None:
        """Nothing: all of it is ours."""

    def arrived(self, start: int, stop: int) -> None:
        """Nothing: it is where it is used."""

    def release(self, start: int) -> None:
        self._region.release(start)


@dataclass(frozen=True)
class _Piece:
    """Whole segments of a part, which lie in memory at [start, stop); its pages [first, last) are read with it,
    the rest of the page where it begins came with the piece before."""

    part: Part
    at: int  # of the part's first byte
    start: int
    stop: int
    first: int
    last: int


@dataclass(frozen=True)
class _Unit:
    """What is restored, and given back, together: pages [start, stop). stage: its number."""

    stage: int
    pieces: tuple[_Piece, ...]

    @property
    def start(self) -> int:
        return self.pieces[0].first

    @property
    def stop(self) -> int:
        return self.pieces[-1].last


class Restored(WeightSource):
    """A decoder's tensors, sealed (of `encrypted.unseal`) or not, that are restored by the pass that first needs them.

    layers: of the decoder. supply: makes memory of so many bytes. policy: who goes first. timeline: gets spans of lanes
    "alloc", "read", "decrypt", of "cpu" and "npu" for what the model computes, and "wait". npu: entered around every
    product of matrices. nbytes: of everything.

    A wrong key or altered bytes raise BadArtifact before the first token, and a pass that fails leaves nothing
    decrypted but what is small.
    """

    streams_layers = True

    def __init__(
        self,
        tensors: Tensors,
        layers: int,
        supply: Callable[[int], Supply] = OwnMemory,
        *,
        policy: Policy = "preempt",
        timeline: Timeline | None = None,
        npu: Callable[[str], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.policy, self.timeline = policy, timeline
        self._npu = npu or (lambda name: nullcontext())
        self._tensors, self._names = tensors, list(tensors)
        stages = _stages(tensors, layers)
        staged = {part.tensor for stage in stages for part in stage.parts}
        small, self._held = list[Part](), dict[str, Stored]()
        for name, tensor in tensors.items():
            place: Place | None = getattr(tensor, "place", None)
            if name not in staged and tensor.format["kind"] == "dense" and place is not None and place.nbytes:
                small.append(Part(name, name, place, tensor.format))
            elif name not in staged:
                self._held[name] = tensor
        self._keys = [stage.key for stage in stages]
        units = _lay_out([Stage(("small", 0), tuple(small)), *stages])
        self._units = [unit for unit in units if unit.stage >= 0]
        self.nbytes = units[-1].stop if units else 0
        self._supply = supply(max(self.nbytes, ALIGNED))
        self.bytes_read = self._there = 0  # units that are restored, from the first
        for piece in (piece for unit in units for piece in unit.pieces):
            stored = self._supply.memory[piece.at : piece.at + piece.part.nbytes]
            self._held[piece.part.name] = HeldTensor.of(piece.part.format, stored)
        self._unchecked = {name for name in tensors if not isinstance(tensors[name], SealedTensor)}
        self._begun: dict[int, Bytes] = {}  # by where a piece begins, its bytes that came with the one before
        self._turns: Turns | None = None
        self._schedule: Restoration | None = None
        self._numbers: dict[Key, int] = {}
        self._ends: list[int] = []  # of each unit, the last operation that restores it, -1 where it was there
        self._least = 0
        for unit in units[: len(units) - len(self._units)]:
            self._allocate(unit, 0, 1)
            self._read(unit)
            self._decrypt(unit, 0, 1)
            self._least = unit.stop

    @property
    def bytes_resident(self) -> int:  # type: ignore[override]
        """Decrypted, of `nbytes` in all."""
        return self._units[self._there - 1].stop if self._there else self._least

    def give_back(self, keep: float = 0.0) -> None:
        """Wipe what is restored and give its memory back, from the end, until at most a share of all bytes is left.

        Raises BadInput for a share outside 0 to 1.
        """
        if not 0 <= keep <= 1:
            raise BadInput(f"the share to keep is {keep}; give one from 0 to 1")
        self._leave_off()
        while self._there and self._units[self._there - 1].stop > keep * self.nbytes:
            self._there -= 1
        if self.bytes_resident < self.nbytes:
            self._supply.release(self.bytes_resident)

    @contextmanager
    def hold(self, key: Key) -> Iterator[None]:
        if key == self._keys[0]:
            self._leave_off()  # a pass before this one was broken off
            if self._there < len(self._units):
                self._begin()
        turns, number = self._turns, self._numbers.get(key)
        if turns is None or number is None or self._schedule is None:
            yield
            return
        try:
            turns.enter(number)
            with self._npu(str(key)) if self._schedule.ops[number].lane == NPU else nullcontext():
                yield
            if not turns.go_on():
                self._leave_off()
        except BaseException:
            self.give_back()
            raise

    def table(self, name: str) -> Table:
        table = read_table(self, name)
        return _Awaited(table.matrices, table.bands, table.places, self)

    def __getitem__(self, name: str) -> Stored:
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _begin(self) -> None:
        """Begin to restore what is not there."""
        chain, keys = list[Compute](), list[Key | None]()
        for stage, key in enumerate(self._keys):
            if key != _TABLE:
                chain.append(Compute(f"before {key}", CPU))
                keys.append(None)
            restore = tuple(self._work_of(unit) for unit in self._units[self._there :] if unit.stage == stage)
            chain.append(Compute(str(key), CPU if key == _TABLE else NPU, restore=restore))
            keys.append(key)
        ops, numbers = graph(chain)
        self._numbers = {key: number for key, number in zip(keys, numbers, strict=True) if key}
        which, at = list[int](), self._there - 1  # unit of each operation
        for op in ops:
            at += op.kind == "alloc"
            which.append(at)
        self._ends = [-1] * len(self._units)
        for number, op in enumerate(ops):
            if op.kind != "compute":
                self._ends[which[number]] = number
        schedule = self._schedule = Restoration(ops, self.policy)

        def work(number: int, piece: int) -> None:
            op, unit = schedule.ops[number], self._units[which[number]]
            if op.kind == "read":
                self._read(unit)
            else:
                (self._allocate if op.kind == "alloc" else self._decrypt)(unit, piece, op.pieces)

        self._turns = Turns(schedule, work, (CPU, IO), self.timeline)

    def _work_of(self, unit: _Unit) -> Restore:
        pieces = max(1, (unit.stop - unit.start) // _MICRO)
        sealed = isinstance(self._tensors[unit.pieces[0].part.tensor], SealedTensor)
        return Restore(pieces=(pieces, pieces), sealed=sealed)

    def _leave_off(self) -> None:
        """End what goes on; what is whole of it stays."""
        turns, self._turns = self._turns, None
        if turns is None or self._schedule is None:
            return
        turns.end()
        while self._there < len(self._units):
            end = self._ends[self._there]
            if end >= 0 and not self._schedule.is_over(end):
                break
            self._there += 1

    def _allocate(self, unit: _Unit, which: int, of: int) -> None:
        pages = (unit.stop - unit.start) // ALIGNED
        first, last = which * pages // of, (which + 1) * pages // of
        self._supply.allocate(unit.start + first * ALIGNED, unit.start + last * ALIGNED)

    def _read(self, unit: _Unit) -> None:
        """All pieces; those that are not sealed are checked when they are first read."""
        tickets, problems = list[Ticket](), list[OndeviceError]()
        for piece in unit.pieces:
            start, stop = max(piece.first, piece.at), min(piece.last, piece.at + piece.part.nbytes)
            offset = piece.part.place.offset + start - piece.at
            place = replace(piece.part.place, offset=offset, nbytes=stop - start)
            tickets.append(self._supply.read(place, piece.first))
            self.bytes_read += place.nbytes
        for ticket in tickets:  # all, or answers that come later would be taken for others
            try:
                ticket.wait()
            except OndeviceError as problem:
                problems.append(problem)
        if problems:
            raise problems[0]
        for piece in unit.pieces:
            self._begun[piece.stop] = self._supply.window[piece.stop : piece.last].copy()
            part, ends = piece.part, piece.stop == piece.at + piece.part.nbytes
            if ends and part.tensor in self._unchecked:
                stored = self._supply.memory[piece.at : piece.stop]
                check(part.name, part.place, hashlib.sha256(stored.data))
                self._unchecked.remove(part.tensor)

    def _decrypt(self, unit: _Unit, which: int, of: int) -> None:
        """Some of the segments of a unit. Raises BadArtifact."""
        if which == 0:
            self._supply.protect(unit.start, unit.stop)
        window, memory = self._supply.window, self._supply.memory
        segments = [
            (tensor, piece, start)
            for piece in unit.pieces
            if isinstance(tensor := self._tensors[piece.part.tensor], SealedTensor)
            for start in range(piece.start, piece.stop, tensor.place.unit)
        ]
        for tensor, piece, start in segments[which * len(segments) // of : (which + 1) * len(segments) // of]:
            stop = min(start + tensor.place.unit, piece.stop)
            stored = window[start:stop]
            if start < piece.first:
                stored = np.concatenate([self._begun[start], window[piece.first : stop]])
            tensor.decrypt((start - piece.at) // tensor.place.unit, stored, memory[start:stop])
        if which == of - 1:
            self._supply.arrived(unit.start, unit.stop)


@dataclass(frozen=True)
class _Awaited(Table):
    """The embeddings, which a pass begins with."""

    source: Restored | None = None

    def embed(self, kernels: Kernels, ids: Rows) -> Floats:
        assert self.source is not None
        with self.source.hold(_TABLE):
            return super().embed(kernels, ids)


def _stages(tensors: Tensors, layers: int) -> list[Stage]:
    """The embeddings, the layers, the head; where the head is the table of embeddings, it is there already."""
    stages = [stage for stage in stages_of(tensors, layers, band=1 << 62) if stage.parts]
    table = place_of(tensors[TABLE]) if TABLE in tensors else None
    first = [Stage(_TABLE, (Part(TABLE, TABLE, table, tensors[TABLE].format),))] if table else []
    body = [stage for stage in stages if stage.key != _HEAD]
    heads = [stage for stage in stages if stage.key == _HEAD and head_name(tensors) != TABLE]
    return [*first, *body, *(heads or [Stage(_HEAD)])]


def _lay_out(stages: Sequence[Stage]) -> list[_Unit]:
    """One stage behind the other, each part as direct reads leave it; the first one's number is -1."""
    units, room_at = list[_Unit](), 0
    for number, stage in enumerate(stages, -1):
        pieces = list[_Piece]()
        for part in stage.parts:
            for piece in _cut(part, room_at):
                if pieces and piece.last - pieces[0].first > _UNIT:
                    units.append(_Unit(number, tuple(pieces)))
                    pieces = []
                pieces.append(piece)
            room_at += room(part.place.offset, part.nbytes)
        if pieces:
            units.append(_Unit(number, tuple(pieces)))
    return units


def _cut(part: Part, room_at: int) -> Iterator[_Piece]:
    """A part whose room begins at a page, in pieces of whole segments of about `_UNIT`; one that is not sealed is cut
    between pages."""
    at = room_at + part.place.offset % ALIGNED
    end = room_at + room(part.place.offset, part.nbytes)
    segment = part.place.unit if part.place.unit > 1 else ALIGNED
    step = max(1, _UNIT // segment) * segment
    cuts = [*range(at, at + part.nbytes, step), at + part.nbytes]
    if part.place.unit == 1:
        cuts = [cuts[0], *(cut // ALIGNED * ALIGNED for cut in cuts[1:-1]), cuts[-1]]
    pages = [room_at, *(-(-cut // ALIGNED) * ALIGNED for cut in cuts[1:-1]), end]
    for start, stop, first, last in zip(cuts, cuts[1:], pages, pages[1:]):
        yield _Piece(part, at, start, stop, first, last)
