"""Lifetimes to offsets: many buffers share one arena, because few of them live at the same time.

Knows sizes and steps. Knows nothing of tensors, so that any static schedule can use it: networks, microcontrollers.

Source: MNN (Jiang et al. 2020), section 3.2; largest-first placement after Pisarchyk and Lee 2020, "Efficient Memory
Management for Deep Neural Net Inference".
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ondevice.errors import BadInput

_TRIES = 200  # orders drawn where the simple ones leave a gap


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` units that holds what it is given from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.size < 0 or not 0 <= self.first <= self.last:
            raise BadInput(f"a buffer has a size of 0 or more and steps in order, not {self}")

    def meets(self, other: Lifetime) -> bool:
        """Whether both live at one step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """offsets: of each buffer, as they were given. size: of the arena. bound: what lives at the worst step, below which
    no plan can be. total: of all buffers, each by itself."""

    offsets: tuple[int, ...]
    size: int
    bound: int
    total: int


def plan_memory(buffers: Sequence[Lifetime], *, alignment: int = 1, seed: int = 0) -> MemoryPlan:
    """Offsets, multiples of `alignment`, at which no two buffers that live at the same time overlap.

    Buffers are placed in some order, each in the smallest gap that takes it: largest first, longest first, by their
    steps, and, while the bound is not met, in orders that `seed` draws by exchanging two. Best found, not the best
    there is: that is NP-hard.
    """
    if alignment < 1:
        raise BadInput(f"an alignment is 1 or more, not {alignment}")
    sizes = [-(-buffer.size // alignment) * alignment for buffer in buffers]
    steps = {buffer.first for buffer in buffers}
    bound = max(
        (sum(size for size, it in zip(sizes, buffers) if it.first <= step <= it.last) for step in steps),
        default=0,
    )
    rivals = [
        [j for j, other in enumerate(buffers) if j != i and it.meets(other)] for i, it in enumerate(buffers)
    ]
    keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (-sizes[i], buffers[i].first),
        lambda i: (-sizes[i] * (buffers[i].last - buffers[i].first + 1), -sizes[i]),
        lambda i: (buffers[i].first, -sizes[i]),
        lambda i: (-buffers[i].last, -sizes[i]),
    )
    best: tuple[int, list[int], list[int]] | None = None
    for key in keys:
        order = sorted(range(len(buffers)), key=key)
        offsets = _place(order, sizes, rivals)
        size = _end(offsets, sizes)
        if best is None or size < best[0]:
            best = (size, offsets, order)
    assert best is not None
    draws = random.Random(seed)
    for _ in range(_TRIES):
        if best[0] <= bound or len(buffers) < 2:
            break
        order = list(best[2])
        i, j = draws.sample(range(len(order)), 2)
        order[i], order[j] = order[j], order[i]
        offsets = _place(order, sizes, rivals)
        size = _end(offsets, sizes)
        if size <= best[0]:
            best = (size, offsets, order)
    return MemoryPlan(tuple(best[1]), best[0], bound, sum(sizes))


def _place(order: Sequence[int], sizes: Sequence[int], rivals: Sequence[Sequence[int]]) -> list[int]:
    offsets = [-1] * len(sizes)
    for i in order:
        taken = sorted((offsets[j], offsets[j] + sizes[j]) for j in rivals[i] if offsets[j] >= 0)
        end, at, least = 0, -1, -1
        for start, stop in taken:
            gap = start - end
            if gap >= sizes[i] and (at < 0 or gap < least):
                at, least = end, gap
            end = max(end, stop)
        offsets[i] = at if at >= 0 else end
    return offsets


def _end(offsets: Sequence[int], sizes: Sequence[int]) -> int:
    return max((offset + size for offset, size in zip(offsets, sizes)), default=0)
