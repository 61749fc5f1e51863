"""Weights of which the experts come when they are called: all else in memory, experts in a buffer of fixed size.

Knows units (the parts of an expert, or planes of them), memory and what was asked for; which units stay is
`eviction.py`. Knows nothing of routers or kernels. Chunks are read one after another: of units that are asked for, in
their order, then of those that are guessed, likeliest first, so that what is needed never waits for more than the
chunks on their way. Bytes are used as they are stored, so no buffer, policy or guess changes a token.

Source: Yi et al. 2023, "EdgeMoE: Fast On-Device Inference of MoE-based Large Language Models", expert management.
"""

from __future__ import annotations

import re
import weakref
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any, TypeVar

from ondevice.artifact import Place
from ondevice.devices.storage import Storage, Ticket
from ondevice.errors import BadInput
from ondevice.measure.amounts import amount
from ondevice.measure.timeline import Timeline
from ondevice.runtime.io import FileStorage, huge_pages
from ondevice.runtime.projection import Stored, Tensors
from ondevice.runtime.weights.arrivals import Arrivals, ExpertStats
from ondevice.runtime.weights.eviction import LeastRecent, Policy, Unit
from ondevice.runtime.weights.extents import Extents
from ondevice.runtime.weights.parts import Part, place_of
from ondevice.runtime.weights.source import Bytes, HeldTensor, Resident
from ondevice.runtime.weights.streamed import Elsewhere

T = TypeVar("T")
_OF_EXPERT = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.")


def experts_of(tensors: Tensors) -> dict[Unit, list[Part]]:
    """The matrices of each expert by (layer, expert), as they lie in a file.

    Raises BadInput for a model without experts, and where they are of a form that is converted when it is loaded.
    """
    units: dict[Unit, list[Part]] = {}
    for name in sorted(tensors):
        if (found := _OF_EXPERT.match(name)) and not _small(tensors[name]):
            place = place_of(tensors[name])
            if place is None:
                raise BadInput(
                    f"{name} is converted when it is loaded, so it cannot come when it is called; make an artifact "
                    "of the model with `ondevice fit`"
                )
            part = Part(name, name, place, tensors[name].format)
            units.setdefault((int(found[1]), int(found[2])), []).append(part)
    if not units:
        if any(".experts." in name for name in tensors):
            raise BadInput(
                "the experts of a layer are one tensor in this file; make an artifact of it with `ondevice fit`, "
                "which stores each by itself"
            )
        raise BadInput(
            "this model is dense: it has no experts that could come when they are called; --memory streams the "
            "weights of a dense model"
        )
    return units


def least_memory(units: Mapping[Unit, Sequence[Part]], used: int) -> int:
    """Bytes of the smallest buffer: so many of the largest experts of one layer."""
    sizes: dict[int, dict[Unit, int]] = {}
    for unit, parts in units.items():
        of_layer = sizes.setdefault(unit[0], {})
        of_layer[unit[:2]] = of_layer.get(unit[:2], 0) + Extents(parts).nbytes
    return max(sum(sorted(of_layer.values())[-used:]) for of_layer in sizes.values())


def check_memory(units: Mapping[Unit, Sequence[Part]], used: int, memory: int) -> None:
    """Raise BadInput for a buffer that is smaller than the least."""
    least = least_memory(units, used)
    if memory < least:
        raise BadInput(
            f"{amount(memory, 'bytes')} of memory for experts do not hold the {used} that a token uses in one layer; "
            f"give {least} bytes or more"
        )


class ExpertCache(Resident):
    """A decoder's tensors: experts in a buffer of `memory` bytes, read when they are asked for, the rest in memory.

    units: what is read and kept as one; those of `experts_of` unless given. used: experts a token uses, which the
    buffer must hold at once. policy: of what stays; least recently used unless given. timeline: gets a span of lane
    "disk" for every read and "wait" for every wait.
    Raises BadInput for a smaller buffer, with the least, and as `experts_of`.
    """

    def __init__(
        self,
        tensors: Tensors,
        memory: int,
        *,
        used: int,
        policy: Policy | None = None,
        units: Mapping[Unit, Sequence[Part]] | None = None,
        storage: Storage | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        units = experts_of(tensors) if units is None else units
        check_memory(units, used, memory)
        self.storage = storage or FileStorage()
        self._own_read = self.bytes_resident = 0
        self._held: dict[str, Stored] = {}
        self._names = list(tensors)
        self._formats = {name: tensor.format for name, tensor in tensors.items()}
        self.units: dict[Unit, Extents] = {unit: Extents(parts) for unit, parts in units.items()}
        streamed = {part.tensor for parts in units.values() for part in parts}
        parts = []
        for name, tensor in tensors.items():
            place = None if name in streamed else place_of(tensor)
            if place is not None:
                parts.append(Part(name, name, place, tensor.format))
            elif name not in streamed:
                self._keep(name, tensor)
        self._load(parts)
        self.memory = min(memory, sum(each.nbytes for each in self.units.values()))
        self.bytes_resident += self.memory
        self._arrivals = Arrivals(
            self.units, huge_pages(self.memory), policy or LeastRecent(), self.storage, timeline
        )
        self._timeline = timeline
        weakref.finalize(self, self._arrivals.stop)

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        """From storage so far, experts and all else."""
        return self._own_read + self._arrivals.stats.bytes_read

    @property
    def stats(self) -> ExpertStats:
        """What was found, waited for and wasted so far."""
        return self._arrivals.stats

    def guess(self, worth: Mapping[Unit, float]) -> None:
        """Read these ahead, those of most worth first, until their layer asks; worth: a probability. They replace what
        was guessed before, and drive out only what the policy holds to be worth less."""
        self._arrivals.guess(worth)

    def ask(
        self, units: Sequence[Unit], make: Callable[[Unit, Tensors], T], *, hold: bool = False
    ) -> Iterator[tuple[Unit, T]]:
        """Begin to read what of these is not there; then, as they come, each with what `make` makes of its tensors,
        which is kept with them.

        A unit stays where it is until the next is taken from the iterator, with `hold` until all were taken; then there
        must be room for all. Units of one layer; what was guessed of it and is not among them is given up. Raises
        BadInput or BadArtifact, on the way, where one cannot be read.
        """
        self._arrivals.ask(units)
        return self._come(list(units), make, hold)

    def _come(
        self, left: list[Unit], make: Callable[[Unit, Tensors], T], hold: bool
    ) -> Iterator[tuple[Unit, T]]:
        arrivals, asked = self._arrivals, tuple(left)
        done: Unit | None = None
        try:
            while left:
                started = perf_counter()
                entry, waited = arrivals.next_of(left, None if hold else done)
                if waited and self._timeline is not None:
                    self._timeline.record("wait", f"expert {entry.unit}", started, perf_counter())
                if entry.made is None:
                    entry.made = make(entry.unit, self._tensors_at(entry.unit, entry.at))
                done = entry.unit
                left.remove(done)
                yield done, entry.made
        finally:
            arrivals.release(asked)

    def _tensors_at(self, unit: Unit, at: int) -> Tensors:
        extents, buffer = self.units[unit], self._arrivals.buffer
        here: dict[str, Any] = {
            part.name: HeldTensor.of(part.format, buffer[at + first :][: part.nbytes])
            for part, first in extents.places
        }
        return ChainMap(here, self._held)

    def __getitem__(self, name: str) -> Stored:
        return self._held[name] if name in self._held else Elsewhere(self._formats[name])

    def _read(self, place: Place, into: Bytes) -> Ticket:
        self._own_read += place.nbytes
        return self.storage.read(place.path, place.offset, place.nbytes, into)


def _small(tensor: Stored) -> bool:
    """Whether a tensor is a vector: a bias, or a scale of inputs."""
    return tensor.format["kind"] == "dense" and len(tensor.format["shape"]) < 2
