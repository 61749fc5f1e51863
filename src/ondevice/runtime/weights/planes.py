"""Planes of experts that come when they are called, and which of them a full buffer keeps.

Knows the names of nested tensors, the cache and orders of reads. Knows nothing of kernels.

Source: the D2MoE paper's memory policy: room is made by high planes before low ones, those of the layer that runs again
last before others, so that low planes stay as the buffer grows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ondevice.devices.storage import Storage
from ondevice.errors import BadInput
from ondevice.measure.amounts import amount
from ondevice.measure.timeline import Timeline
from ondevice.runtime.io import ALIGNED
from ondevice.runtime.moe.nested import Need, Plane, plane_of
from ondevice.runtime.projection import Tensors
from ondevice.runtime.schedule.hebf import Job, Order, by_id, hebf
from ondevice.runtime.weights.eviction import Policy, Unit
from ondevice.runtime.weights.experts import ExpertCache
from ondevice.runtime.weights.extents import Extents
from ondevice.runtime.weights.parts import Part

_OF_PLANE = re.compile(
    r"model\.layers\.(\d+)\.mlp\.experts\.(\d+)\.(?:gate|up|down)_proj\.(?:weight|plane(\d+))$"
)
Ordering = Callable[[Sequence[Need]], list[Need]]


class LowPlanesLast(Policy):
    """Drop high planes before low ones, and of equal ones those whose layer runs again last."""

    def __init__(self, layers: int) -> None:
        self._layers, self._now = layers, 0

    def begin(self, units: Sequence[Unit]) -> None:
        if units:
            self._now = units[0][0]

    def keep(self, unit: Unit) -> float:
        distance = (unit[0] - self._now - 1) % self._layers + 1
        return -unit[2] * (self._layers + 1) - distance


def has_planes(tensors: Tensors) -> bool:
    """Whether some experts are stored in nested bits."""
    return any((found := _OF_PLANE.match(name)) is not None and found[3] is not None for name in tensors)


def planes_of(tensors: Tensors) -> dict[Unit, list[Part]]:
    """The parts of each plane by (layer, expert, plane), as they lie in a file. Raises BadInput where experts are not
    stored in nested bits."""
    units: dict[Unit, list[Part]] = {}
    for name in sorted(tensors):
        if found := _OF_PLANE.match(name):
            place = getattr(tensors[name], "place", None)
            if place is None:
                raise BadInput(f"{name} does not lie in a file, so it cannot come when it is called")
            unit = int(found[1]), int(found[2]), int(found[3] or 0)
            units.setdefault(unit, []).append(Part(name, name, place, tensors[name].format))
    if not any(unit[2] for unit in units):
        raise BadInput(
            "the experts of this model are not in nested bits; make an artifact with "
            "`ondevice fit MODEL --with matryoshka:widths=2..4`"
        )
    return units


def least_for_planes(units: Mapping[Unit, Sequence[Part]]) -> int:
    """Bytes of the smallest buffer: the bases of one layer, and all planes of one expert wherever they lie."""
    sizes = {unit: Extents(parts).nbytes for unit, parts in units.items()}
    bases: dict[int, int] = {}
    whole: dict[Unit, list[int]] = {}
    for unit, size in sizes.items():
        whole.setdefault(unit[:2], []).append(size)
        if unit[2] == 0:
            bases[unit[0]] = bases.get(unit[0], 0) + size
    largest = max(sizes.values())
    return max(*bases.values(), *(_room(each, largest) for each in whole.values()))


def check_plane_memory(units: Mapping[Unit, Sequence[Part]], memory: int) -> None:
    """Raise BadInput for a buffer that is smaller than the least."""
    least = least_for_planes(units)
    if memory < least:
        raise BadInput(
            f"{amount(memory, 'bytes')} of memory for experts do not hold the lowest width of one layer's experts; "
            f"give {least} bytes or more"
        )


def hottest_first(needs: Sequence[Need]) -> list[Need]:
    """The order of `schedule.hebf`."""
    return _ordered(hebf, needs)


def by_number(needs: Sequence[Need]) -> list[Need]:
    """Expert after expert."""
    return _ordered(by_id, needs)


class PlaneCache(ExpertCache):
    """A decoder's tensors: planes of experts in a buffer of `memory` bytes, read when they are asked for in the order
    that `order` gives, the rest in memory. layers: of the model. policy, storage, timeline: as for `ExpertCache`.

    Raises BadInput where the buffer does not hold the bases of one layer, with the least that would do.
    """

    def __init__(
        self,
        tensors: Tensors,
        memory: int,
        *,
        layers: int,
        order: Ordering = hottest_first,
        policy: Policy | None = None,
        storage: Storage | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        units = planes_of(tensors)
        check_plane_memory(units, memory)
        self.order = order
        super().__init__(
            tensors, memory, used=1, units=units, policy=policy or LowPlanesLast(layers), storage=storage,
            timeline=timeline,
        )  # fmt: skip


@dataclass(frozen=True)
class CalledPlanes:
    """Planes in a cache. stem: of their tensors' names. order: in which they are read."""

    cache: PlaneCache
    layer: int
    stem: str

    def ask(self, needs: Sequence[Need]) -> Iterator[tuple[int, int, Plane]]:
        for some in self._rounds(self.cache.order(needs)):
            units: list[Unit] = [(self.layer, expert, plane) for expert, plane, _ in some]
            coming = self.cache.ask(
                units, lambda unit, tensors: plane_of(tensors, self.stem, unit[1], unit[2]), hold=True
            )
            for unit, plane in coming:
                yield unit[1], unit[2], plane

    def _rounds(self, needs: Sequence[Need]) -> Iterator[list[Need]]:
        """Parts of an order, experts whole, each of which fits the buffer however its planes come to lie."""
        by_expert: dict[int, list[int]] = {}
        for expert, plane, _ in needs:
            by_expert.setdefault(expert, []).append(self.cache.units[self.layer, expert, plane].nbytes)
        largest = max(size for sizes in by_expert.values() for size in sizes)
        experts: list[int] = []
        sizes: list[int] = []
        for expert, own in by_expert.items():
            if experts and _room([*sizes, *own], largest) > self.cache.memory:
                yield [need for need in needs if need[0] in experts]
                experts, sizes = [], []
            experts.append(expert)
            sizes += own
        yield [need for need in needs if need[0] in experts]


def _room(sizes: Sequence[int], largest: int) -> int:
    """What a buffer must have so that these always find room: gaps between them, of whole pages, are smaller than the
    largest."""
    return sum(sizes) + len(sizes) * (largest - ALIGNED)


def _ordered(order: Order, needs: Sequence[Need]) -> list[Need]:
    jobs = order([Job(expert, plane, tokens, 0.0, 0.0) for expert, plane, tokens in needs])
    return [(job.expert, job.plane, job.tokens) for job in jobs]
