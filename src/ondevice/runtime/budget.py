"""How much memory a decoder will take, worked out before it is loaded.

Knows sizes: of weights, of the cache, of one step. Knows nothing of files or tokenizers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.errors import BudgetNotMet
from ondevice.kernels import PAGE, CacheDtype
from ondevice.kernels.pages import CACHE_DTYPES
from ondevice.measure.amounts import amount
from ondevice.measure.memory import own_peak
from ondevice.numerics.tiles import stored_bytes
from ondevice.runtime import encdec
from ondevice.runtime.decoder import Shape
from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.projection import Stored, Tensors

_CHUNK = 512  # tokens of a prompt that the engine reads in one step
_SLACK = 24_000_000  # what is imported later, threads, and what the allocator keeps
_SHORTEST = 128  # tokens; less is no conversation


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes: process: what it held before; weights: in memory, with the file's pages where they are converted;
    working: of one step; cache: for `context` tokens."""

    process: int
    weights: int
    working: int
    cache: int
    context: int

    @property
    def total(self) -> int:
        return self.process + self.weights + self.working + self.cache


def plan_memory(
    tensors: Tensors,
    config: Mapping[str, Any],
    limit: int,
    *,
    context: int | None = None,
    cache_dtype: CacheDtype = "float16",
    process: int | None = None,
) -> MemoryPlan:
    """What one text at a time will take: with this context, or with the longest that a limit of so many bytes allows.

    process: bytes that are held already; those of this process unless given. Raises BudgetNotMet where it does not
    fit, with what would: a shorter context, or a cache of fewer bits.
    """
    reads = config.get("model_type") == encdec.FAMILY  # a source, which is kept beside the text
    shape = encdec.Shape.of(config) if reads else Shape.of(config)
    held = resident_bytes() if process is None else process
    weights = sum(_bytes_of(tensor) for tensor in tensors.values())
    wanted = context or shape.positions
    if reads:  # whole, through an encoder that keeps one layer in float32 at a time
        working = working_bytes(shape, config, wanted) + _SLACK
        working += PagedCache.bytes_of(wanted, 1, shape.cached_heads, shape.head_size, "float32")
    else:
        wanted = min(wanted, shape.positions)
        working = working_bytes(shape, config, min(_CHUNK, wanted)) + _SLACK

    def cache(tokens: int, dtype: CacheDtype = cache_dtype) -> int:
        sizes = shape.layers, shape.cached_heads, shape.head_size
        return PagedCache.bytes_of(tokens, *sizes, dtype) * (2 if reads else 1)

    fixed = held + weights + working
    fits = max(0, limit - fixed) // cache(PAGE) * PAGE
    least = wanted if context else min(wanted, _SHORTEST)
    if fits < least:

        def said(size: int) -> str:
            return amount(size, "bytes")

        parts = (
            f"{said(held)} of process and tokenizer, {said(weights)} of weights, {said(working)} for a step"
        )
        what = (
            f"a context of {fits} tokens would fit" if fits >= min(_SHORTEST, wanted) else "no context fits"
        )
        for smaller in _smaller(cache_dtype, shape.head_size):
            if fixed + cache(least, smaller) <= limit:
                what += f"; a cache of {smaller} (--cache {smaller}) would hold {least}"
                break
        raise BudgetNotMet(
            f"{said(limit)} of memory do not hold this model: {parts} and {said(cache(least))} for a context of "
            f"{least} tokens make {said(fixed + cache(least))}; {what}",
            limit="memory",
        )
    context = min(wanted, fits)
    return MemoryPlan(held, weights, working, cache(context), context)


def resident_bytes() -> int:
    """What this process holds now; at its peak, where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return own_peak()


def _smaller(dtype: CacheDtype, head_size: int) -> list[CacheDtype]:
    """The ways to keep such a head in fewer bits, widest first."""
    after = CACHE_DTYPES[CACHE_DTYPES.index(dtype) + 1 :]
    return [each for each in after if each != "int4" or head_size % 32 == 0]


def _bytes_of(tensor: Stored) -> int:
    form = tensor.format
    if form["kind"] == "tiles":
        used = stored_bytes(form["rows"], form["columns"], form["bits"], form["group_size"])
    elif form["kind"] == "dense":
        used = math.prod(form["shape"]) * np.dtype(form["dtype"]).itemsize
    else:
        return int(tensor.array.nbytes)
    in_file = int(
        getattr(tensor, "nbytes", used)
    )  # of a form that is converted, the file's pages come on top
    return used if in_file == used else used + in_file


def working_bytes(shape: Shape | encdec.Shape, config: Mapping[str, Any], tokens: int) -> int:
    """Float32 rows of the activations that live at once, and the logits with what sampling makes of them."""
    inner = int(config.get("intermediate_size") or config.get("d_ff") or 4 * shape.hidden)
    joint = (2 * shape.heads + 2 * shape.cached_heads) * shape.head_size
    return 4 * tokens * (5 * shape.hidden + joint + 3 * inner) + 32 * int(config.get("vocab_size") or 0)
