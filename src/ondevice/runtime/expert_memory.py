"""How much memory experts get, where not all of them stay: planned before anything is loaded.

Knows sizes, limits, and which parts are experts. Knows nothing of files or kernels. All else of the model stays in
memory: a token needs it in every layer, and of the experts only a few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.devices.storage import Storage
from ondevice.errors import BadInput, BudgetNotMet
from ondevice.kernels import CacheDtype
from ondevice.measure.amounts import amount
from ondevice.measure.timeline import Timeline
from ondevice.runtime.budget import resident_bytes, working_bytes
from ondevice.runtime.decoder import Decoder, Shape
from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.moe.predictor import Foresight, PathPredictor
from ondevice.runtime.moe.trace import mixtures
from ondevice.runtime.projection import Tensors
from ondevice.runtime.weights.eviction import FrequencyOverDistance
from ondevice.runtime.weights.experts import ExpertCache, check_memory, experts_of, least_memory
from ondevice.runtime.weights.extents import Extents
from ondevice.runtime.weights.planes import (
    PlaneCache,
    check_plane_memory,
    has_planes,
    least_for_planes,
    planes_of,
)

CHUNK = 512  # tokens of a prompt in a step: each step calls most experts once
_CONTEXT = 2048  # tokens, where none is asked for and the model has more
_SLACK = 24_000_000  # bytes: what is imported later, threads, and what the allocator keeps


@dataclass(frozen=True)
class ExpertPlan:
    """Bytes. process: held before. kept: weights that are no experts. experts: of the buffer; whole: of all experts.
    working: of a step. cache: for `context` tokens. used: experts a token; layers: of the decoder. nested: whether
    planes of experts are read, not experts."""

    process: int
    kept: int
    experts: int
    whole: int
    working: int
    cache: int
    context: int
    used: int
    layers: int
    nested: bool = False

    @property
    def total(self) -> int:
        return self.process + self.kept + self.experts + self.working + self.cache

    def describe(self) -> str:
        """What was chosen, in a line."""
        return (
            f"{amount(self.experts, 'bytes')} for {amount(self.whole, 'bytes')} of experts, which are read when they "
            f"are called; {amount(self.kept, 'bytes')} of other weights stay in memory; context: {self.context} tokens"
        )

    def open(
        self, tensors: Tensors, *, storage: Storage | None = None, timeline: Timeline | None = None
    ) -> ExpertCache:
        """Load what stays."""
        if self.nested:
            return PlaneCache(tensors, self.experts, layers=self.layers, storage=storage, timeline=timeline)
        return ExpertCache(
            tensors, self.experts, used=self.used, policy=FrequencyOverDistance(self.layers), storage=storage,
            timeline=timeline,
        )  # fmt: skip


def plan_experts(
    tensors: Tensors,
    config: Mapping[str, Any],
    *,
    experts: int | None = None,
    limit: int | None = None,
    context: int | None = None,
    cache_dtype: CacheDtype = "float16",
    process: int | None = None,
) -> ExpertPlan:
    """How a mixture runs with so many bytes for its experts, in a process of at most `limit` bytes; without either
    number, what the other leaves.

    process: bytes that are held already; those of this process unless given. Raises BadInput for a dense model, for
    experts that cannot be read one by one, and for less than a token's experts of one layer, with the least;
    BudgetNotMet where the limit leaves less.
    """
    if experts is None and limit is None:
        raise BadInput("give the memory for experts, or a limit for all")
    shape, used = Shape.of(config), int(config.get("num_experts_per_tok") or 2)
    nested = has_planes(tensors)
    units = planes_of(tensors) if nested else experts_of(tensors)
    of_experts = {part.tensor for parts in units.values() for part in parts}
    whole = sum(Extents(parts).nbytes for parts in units.values())
    least = least_for_planes(units) if nested else least_memory(units, used)
    kept = sum(_nbytes(tensors[name]) for name in tensors if name not in of_experts)
    tokens = min(context or _CONTEXT, shape.positions)
    working = working_bytes(shape, config, min(CHUNK, tokens)) + 4 * used * min(CHUNK, tokens) * shape.hidden
    working += _SLACK
    cache = PagedCache.bytes_of(tokens, shape.layers, shape.cached_heads, shape.head_size, cache_dtype)
    held = resident_bytes() if process is None else process
    fixed = held + kept + working + cache
    wanted = fixed + (experts or least)
    if limit is not None and wanted > limit:
        parts = {
            "process and tokenizer": held, "weights that are no experts": kept, "work on a step": working,
            f"a context of {tokens} tokens": cache, "experts": experts or least,
        }  # fmt: skip
        said = ", ".join(f"{amount(size, 'bytes')} for {name}" for name, size in parts.items())
        raise BudgetNotMet(
            f"{said} make {amount(wanted, 'bytes')}, more than {amount(limit, 'bytes')}", limit="memory"
        )
    room = experts if experts is not None else (limit or 0) - fixed
    if nested:
        check_plane_memory(units, room)
    else:
        check_memory(units, used, room)
    return ExpertPlan(held, kept, min(room, whole), whole, working, cache, tokens, used, shape.layers, nested)


def foresee(decoder: Decoder, cache: ExpertCache, predictor: PathPredictor | None = None) -> PathPredictor:
    """Have the experts of the next layer read ahead; without a predictor one that learns as the decoder runs. The
    predictor."""
    found = mixtures(decoder)
    fresh = predictor or PathPredictor([each.layer for each in found], found[0].count, found[0].used)
    foresight = Foresight(cache, fresh)
    for each in found:
        each.listeners.append(foresight)
    return fresh


def _nbytes(tensor: Any) -> int:
    return int(getattr(tensor, "nbytes", None) or tensor.array.nbytes)
