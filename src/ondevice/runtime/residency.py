"""Which weights stay in memory and which are streamed, where a limit does not hold them all.

Knows the parts of a decoder, sizes and a limit. Knows nothing of files or kernels; nothing is loaded by a plan.

Every layer gets the same share of what may be locked, or reads would bunch in some layers and leave the disk idle in
others. Within its share a layer locks the set of tensors that fills it best, on equal bytes the set of more tensors:
with little memory those are the small ones of attention, so that fewer and larger reads are left.

Source: Du et al. 2025, "FlexInfer", balanced memory locking and flexible tensor preservation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ondevice.devices.storage import Storage
from ondevice.errors import BudgetNotMet
from ondevice.kernels import CacheDtype, Kernels, Linear
from ondevice.measure.amounts import amount
from ondevice.measure.timeline import Timeline
from ondevice.runtime.budget import resident_bytes, working_bytes
from ondevice.runtime.decoder import Shape
from ondevice.runtime.io import room
from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.projection import Tensors, read_matrix
from ondevice.runtime.weights.panels import PanelTable
from ondevice.runtime.weights.parts import TABLE, Part, Stage, place_of, stages_of
from ondevice.runtime.weights.streamed import Streamed, ring_least

Locking = Literal["balanced", "layerwise", "none"]
CHUNK = 64  # tokens of a prompt in a step: each step reads what is streamed once
_CONTEXT = 2048  # tokens, where none is asked for and an eighth of the limit holds them
_SLACK = 12_000_000  # bytes: of what is imported later, threads, and the allocator; steps are small here
_RING = 2  # times the largest stage
_HUGE = 2 << 20
_TRIAL = 128 << 20  # bytes
_MOST_SETS = 12  # parts of a layer up to which every set is tried


@dataclass(frozen=True)
class Rates:
    """Measured, bytes/s. read: of what is streamed, in a pass with its products. compute: of weights, where nothing is
    streamed; else infinite. direct: whether reads go past the page cache."""

    read: float
    compute: float
    direct: bool


@dataclass(frozen=True)
class ResidencyPlan:
    """Bytes. limit: of the process. process: what it held before. kept: small tensors, and what the table takes.
    locked: of the parts in `names`. ring: that the others go through. streamed: read for every step. working: of a
    step. cache: for `context` tokens."""

    stages: tuple[Stage, ...]
    names: frozenset[str]
    limit: int
    process: int
    kept: int
    locked: int
    ring: int
    streamed: int
    working: int
    cache: int
    context: int

    @property
    def fixed(self) -> int:
        """What is not weights in memory."""
        return self.process + self.kept + self.working + self.cache

    @property
    def total(self) -> int:
        return self.fixed + self.locked + self.ring

    @property
    def weights(self) -> int:
        """Of all parts."""
        return sum(stage.nbytes for stage in self.stages)

    def seconds(self, rates: Rates) -> float:
        """Of a token."""
        return max(self.streamed / rates.read, self.weights / rates.compute)

    def describe(self, rates: Rates) -> str:
        """What was chosen and what is expected of it, in a line."""

        def said(size: float) -> str:
            return amount(size, "bytes")

        how = "" if rates.direct else ", through the page cache: this file system refuses direct reads"
        return (
            f"{said(self.locked)} of the weights stay in memory, {said(self.streamed)} are read for every token "
            f"(measured: {said(rates.read)}/s{how}); expected: {1 / self.seconds(rates):.2g} tokens/s, "
            f"context: {self.context} tokens"
        )

    def open(
        self,
        tensors: Tensors,
        *,
        storage: Storage | None = None,
        prefetch: bool = True,
        timeline: Timeline | None = None,
    ) -> Streamed:
        """Load what is locked and begin to read the rest."""
        return Streamed(
            tensors,
            self.stages,
            locked=self.names,
            ring_bytes=self.ring,
            storage=storage,
            prefetch=prefetch,
            timeline=timeline,
        )


def plan_residency(
    tensors: Tensors,
    config: Mapping[str, Any],
    limit: int,
    *,
    context: int | None = None,
    cache_dtype: CacheDtype = "float16",
    process: int | None = None,
    locking: Locking = "balanced",
) -> ResidencyPlan:
    """How a decoder runs in a process of at most `limit` bytes, one text at a time.

    process: bytes that are held already; those of this process unless given. Raises BudgetNotMet where no plan fits,
    with the least that would do, and where tensors are of a form that is converted when it is loaded.
    """
    shape = Shape.of(config)
    stages = stages_of(tensors, shape.layers)
    parts = [part for stage in stages for part in stage.parts]
    held = resident_bytes() if process is None else process
    kept = _kept(tensors, parts)
    working = working_bytes(shape, config, CHUNK) + _SLACK

    def cache_of(tokens: int) -> int:
        return PagedCache.bytes_of(tokens, shape.layers, shape.cached_heads, shape.head_size, cache_dtype)

    tokens = min(context or _CONTEXT, shape.positions)
    while context is None and tokens > 256 and cache_of(tokens) > limit // 8:
        tokens //= 2
    free = limit - held - kept - working - cache_of(tokens)
    least = _rounded(ring_least(stages, ()))
    if free < least or not parts:
        raise BudgetNotMet(
            _refusal(limit, held, kept, working, cache_of(tokens), tokens, least, parts), limit="memory"
        )
    ring, names = _ring_and_locked(stages, free, locking)
    locked = sum(_room(part) for part in parts if part.name in names)
    streamed = sum(part.nbytes for part in parts if part.name not in names)
    return ResidencyPlan(
        tuple(stages), names, limit, held, kept, locked, ring, streamed, working, cache_of(tokens), tokens
    )


def measure_rates(plan: ResidencyPlan, source: Streamed, kernels: Kernels) -> Rates:
    """Go through the first stages as a token does, products included, twice: what lies below a disk may keep what was
    read once, and every token reads the same. A quarter of a second."""
    first, size = list[Stage](), 0
    for stage in plan.stages:
        if size < plan.ring + _TRIAL:
            first.append(stage)
            size += _streamed(plan, stage) if plan.streamed else stage.nbytes
    streamed, started = 0, time.perf_counter()
    for number, stage in enumerate([*first, *first]):
        if number == len(first):
            streamed, started = 0, time.perf_counter()
        with source.hold(stage.key):
            for part in stage.parts:
                if part.name in source and _is_matrix(part):
                    _multiply(source, part, kernels)
        streamed += _streamed(plan, stage)
    seconds = time.perf_counter() - started
    if plan.streamed:
        return Rates(streamed / seconds, float("inf"), source.direct)
    return Rates(float("inf"), sum(stage.nbytes for stage in first) / seconds, source.direct)


def _streamed(plan: ResidencyPlan, stage: Stage) -> int:
    """Bytes of a stage that are read for every token."""
    return sum(part.nbytes for part in stage.parts if part.name not in plan.names)


def _multiply(source: Streamed, part: Part, kernels: Kernels) -> None:
    matrix = read_matrix(source, part.name)
    layer = Linear((matrix,), int8=matrix.tiled and part.format.get("activations") == "int8")
    kernels.linear(np.ones((1, layer.columns), np.float32), layer)


def _is_matrix(part: Part) -> bool:
    return part.format["kind"] == "tiles" or len(part.format["shape"]) == 2


def choose_locked(stages: Sequence[Stage], most: int, locking: Locking) -> frozenset[str]:
    """Names of the parts to lock in at most so many bytes. layerwise: whole layers, the first ones first."""
    layers = [list(group) for _, group in itertools.groupby(stages, key=lambda stage: stage.key[0])]
    groups = [[part for stage in group for part in stage.parts] for group in layers]
    if locking == "none":
        return frozenset()
    chosen: list[Part] = []
    if locking == "layerwise":
        for group in groups:
            if sum(map(_room, chosen + group)) > most:
                break
            chosen += group
        return frozenset(part.name for part in chosen)
    whole = sum(map(_room, itertools.chain(*groups)))
    share = min(1.0, most / max(whole, 1))
    for group in groups:
        chosen += _best_set(group, int(share * sum(map(_room, group))))
    names, left = {part.name for part in chosen}, most - sum(map(_room, chosen))
    while True:  # what is left over, one tensor a layer, in an order that keeps layers even
        before = left
        for number in _spread(len(groups)):
            fits = [part for part in groups[number] if part.name not in names and _room(part) <= left]
            if fits:
                largest = max(fits, key=_room)
                names.add(largest.name)
                left -= _room(largest)
        if left == before:
            return frozenset(names)


def _best_set(parts: Sequence[Part], most: int) -> list[Part]:
    """The parts of a layer that fill its share best; on equal bytes the more of them."""
    if len(parts) > _MOST_SETS:  # bands of the head, or experts: alike, so evenly spread ones do
        chosen: list[Part] = []
        due = 0.0
        for part in parts:
            due += most * _room(part) / sum(map(_room, parts))
            if sum(map(_room, chosen)) + _room(part) <= due:
                chosen.append(part)
        return chosen
    best: tuple[Part, ...] = ()
    for count in range(len(parts) + 1):
        for each in itertools.combinations(parts, count):
            if sum(map(_room, best)) <= sum(map(_room, each)) <= most:
                best = each  # the later ones are of more parts
    return list(best)


def _spread(count: int) -> list[int]:
    """0 .. count - 1 in an order whose every beginning is spread evenly (van der Corput)."""
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return [number for number in order if number < count]


def _ring_and_locked(stages: Sequence[Stage], free: int, locking: Locking) -> tuple[int, frozenset[str]]:
    """A ring of twice the largest stage, so that one is read while another is used, and what the rest can lock."""
    names: frozenset[str] = frozenset()
    ring = min(free, _rounded(_RING * ring_least(stages, ())))
    for _ in range(
        3
    ):  # what is locked of the largest stage makes the ring smaller, so that more can be locked
        names = choose_locked(stages, free - ring - _HUGE, locking)
        wanted = _rounded(_RING * ring_least(stages, names))
        if wanted >= ring:
            break
        ring = wanted
    return max(ring, _rounded(ring_least(stages, names))), names


def _kept(tensors: Tensors, parts: Sequence[Part]) -> int:
    """Bytes of what is neither locked nor streamed."""
    of_parts = {part.tensor for part in parts}
    kept = 0
    for name in tensors:
        if name == TABLE and place_of(tensors[name]):
            kept += PanelTable.nbytes_of(tensors[name].format)
        elif name not in of_parts:
            kept += int(tensors[name].array.nbytes)
    return kept


def _refusal(
    limit: int, held: int, kept: int, working: int, cache: int, tokens: int, least: int, parts: Sequence[Part]
) -> str:
    def said(size: int) -> str:
        return amount(size, "bytes")

    if not parts:
        return (
            "its weights cannot be streamed either: their form is converted when they are loaded; make an artifact of "
            "them with `ondevice fit`"
        )
    return (
        f"with weights streamed from storage, {said(held)} of process and tokenizer, {said(kept)} of small tensors, "
        f"{said(working)} for a step, {said(cache)} for a context of {tokens} tokens and {said(least)} for what is "
        f"streamed at once make {said(held + kept + working + cache + least)}, more than {said(limit)}"
    )


def _room(part: Part) -> int:
    return room(part.place.offset, part.nbytes)


def _rounded(size: int) -> int:
    return -(-size // _HUGE) * _HUGE
