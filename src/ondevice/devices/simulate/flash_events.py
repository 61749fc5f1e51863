"""Flash that computes, event by event: who waits for the channel, and what slicing is for.

Knows one channel with its dies, since all channels do the same at the same time. Knows nothing of models. What it says
is modelled; `flash.py` says the same in equations, from which this differs by queues, ends and page boundaries.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from ondevice.devices.simulate.flash import NandArray, Tile, rates, row_tile
from ondevice.errors import BadInput, MissingExtra

_SOON, _IDLE = 0, 1  # transfers of the cores go before slices of ordinary reads


@dataclass(frozen=True)
class ChannelRun:
    """seconds until all weights are multiplied; busy: share of the time that the channel moved bytes; requests and
    reads: how many pages went either way (a request is a page of every core)."""

    seconds: float
    busy: float
    requests: int
    reads: int


def run_channel(
    flash: NandArray,
    tile: Tile,
    weights: float,
    *,
    sliced: bool = True,
    alpha: float | None = None,
    parts: int = 1,
) -> ChannelRun:
    """Multiply `weights` bytes, one channel's share.

    sliced: ordinary pages cross the channel in slices, each of which lets the cores go first; otherwise whole.
    alpha: share of weights that the cores take; balanced unless given. parts: how often everything must have ended
    before anything goes on, as where the inputs of a matrix are the outputs of the one before.
    Raises BadInput for no weights, MissingExtra without SimPy.
    """
    try:
        import simpy
    except ImportError as error:
        raise MissingExtra("simpy", "hardware", "for simulation event by event") from error

    if weights <= 0 or parts < 1:
        raise BadInput("a channel needs weights to multiply, in one part or more")
    share = rates(flash, tile).alpha if alpha is None else alpha
    requests = math.ceil(weights * share / (flash.cores * flash.page) / parts)
    reads = math.ceil(max(0.0, weights / parts - requests * flash.cores * flash.page) / flash.page)
    clock = simpy.Environment()
    bus = simpy.PriorityResource(clock)
    busy = 0.0

    def move(size: float, priority: int) -> Generator[Any, Any, None]:
        nonlocal busy
        with bus.request(priority) as granted:
            yield granted
            seconds = size / flash.channel_bandwidth
            yield clock.timeout(seconds)
            busy += seconds

    def compute() -> Generator[Any, Any, None]:
        """Inputs to all cores of the channel, their array reads and products, outputs; a core's page register is free
        once it has multiplied, so the next inputs do not wait for these outputs."""
        last: Any = clock.timeout(0)
        for _ in range(requests):
            yield clock.process(move(tile.width, _SOON))
            yield clock.timeout(flash.array_read)
            last = clock.process(move(flash.partial * tile.height, _SOON))
        yield last

    def fetch(die: int) -> Generator[Any, Any, None]:
        """Ordinary pages of one die's other plane: its cache register crosses the channel while the next is read."""
        last: Any = clock.timeout(0)
        for _ in range(die, reads, flash.cores):
            yield clock.timeout(flash.array_read)
            yield last
            last = clock.process(cross())
        yield last

    def cross() -> Generator[Any, Any, None]:
        piece = flash.slice if sliced else flash.page
        for start in range(0, flash.page, piece):
            yield clock.process(move(min(piece, flash.page - start), _IDLE))

    def whole() -> Generator[Any, Any, None]:
        for _ in range(parts):
            yield clock.all_of(
                [clock.process(compute()), *(clock.process(fetch(die)) for die in range(flash.cores))]
            )

    clock.run(clock.process(whole()))
    return ChannelRun(float(clock.now), busy / float(clock.now), requests * parts, reads * parts)


def ablations(flash: NandArray, tile: Tile, columns: int, requests: int) -> dict[str, float]:
    """How many times as long a channel takes over so many requests' weights. equations: than they say. whole pages:
    without slices. rows: with rows of `columns` for tiles. waiting: where inputs wait for outputs four requests
    before."""
    weights = float(requests * flash.cores * flash.page)
    at, run = rates(flash, tile), run_channel(flash, tile, weights)
    return {
        "equations": run.seconds / (weights * flash.channels / (at.in_flash + at.ordinary)),
        "whole pages": run_channel(flash, tile, weights, sliced=False).seconds / run.seconds,
        "rows": run_channel(flash, row_tile(flash, columns), weights).seconds / run.seconds,
        "waiting": run_channel(flash, tile, weights, parts=max(1, requests // 4)).seconds / run.seconds,
    }
