"""The rates of this machine that schemes are priced with, measured on fixed pieces of work.

Knows clocks and kernels. Measures no convolution that a network has: a matrix product at a few heights of the register
tile, additions, and reading of memory. What it takes to begin copying a row (20 ns) is assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import numpy as np

from ondevice.kernels import instruction_set as best_instruction_set
from ondevice.kernels.convolution import ConvShape, Scheme
from ondevice.kernels.network import Network, make_arena
from ondevice.runtime.preinfer.alone import alone
from ondevice.runtime.preinfer.schemes import Rates

_DEPTH, _REPEATS = 256, 7  # channels of the product; runs of each piece of work, of which the fastest counts


@cache
def rates_here(instruction_set: str | None = None) -> Rates:
    """Measured once a process, within a second, in processor time of one thread: a busy machine disturbs it less."""
    name = instruction_set or best_instruction_set()
    network = Network(1, name)
    lanes, rows = network.lanes, network.rows
    heights = sorted({1, max(1, rows // 4), max(1, rows // 2), max(1, 3 * rows // 4), rows})
    empty = _seconds(alone(ConvShape(1, lanes, lanes, 1, 1, (1, 1)), Scheme("direct"), instruction_set=name))
    tiles = {}
    for vectors in (1, 2):
        panels = 4 if vectors == 2 else 1  # one vector is a panel by itself only at the end
        known = []
        for height in heights:
            shape = ConvShape(8, _DEPTH, vectors * lanes * panels, 1, height, (1, 1))
            taken = _seconds(alone(shape, Scheme("direct"), instruction_set=name)) - empty
            known.append((height, max(taken, 1e-9) / (8 * _DEPTH * panels)))
        tiles[vectors] = tuple(known)
    copied = ConvShape(1, lanes, lanes, 4, 512, (1, 1))
    operation = max((_seconds(_adding(name, copied.pixels * lanes)) - empty) / (3 * copied.pixels), 1e-11)
    memory = np.ones(2**24, np.float32)
    bandwidth = memory.nbytes / _seconds(lambda: memory @ memory)
    return Rates(lanes, rows, tiles, operation, 2e-8, bandwidth, empty)


def _adding(name: str, floats: int) -> Callable[[], None]:
    network = Network(1, name)
    network.add(0, floats, output=2 * floats, floats=floats)
    arena = make_arena(network.floats)
    return lambda: network.run(arena)


def _seconds(function: Callable[[], object]) -> float:
    """Processor seconds of one call: the fastest of several runs of enough calls for the clock."""
    function()
    start = time.thread_time()
    function()
    calls = max(1, min(1000, int(5e-4 / max(time.thread_time() - start, 5e-7))))
    fastest = float("inf")
    for _ in range(_REPEATS):
        start = time.thread_time()
        for _ in range(calls):
            function()
        fastest = min(fastest, (time.thread_time() - start) / calls)
    return fastest
