"""Kernels on every instruction set that this processor has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from ondevice.kernels import Kernels, available
from ondevice.numerics.tiles import TiledMatrix


@cache
def _kernels(instruction_set: str, threads: int) -> Kernels:
    return Kernels(threads, instruction_set)


@pytest.fixture(scope="session", params=available())
def kernels(request: pytest.FixtureRequest) -> Kernels:
    """On one thread."""
    return _kernels(request.param, 1)


@pytest.fixture(scope="session", params=available()[:-1])  # all but "reference", which has no threads
def threaded(request: pytest.FixtureRequest) -> tuple[Kernels, Kernels]:
    """The same instruction set on one thread and on three."""
    return _kernels(request.param, 1), _kernels(request.param, 3)


@pytest.fixture(scope="session")
def random_tiles() -> Callable[..., TiledMatrix]:
    """A matrix of random codes; every w8 fits int8, as the encoder guarantees."""

    def make(
        seed: int, rows: int, columns: int, bits: int, group_size: int = 32, unit_scales: bool = False
    ) -> TiledMatrix:
        rng = np.random.default_rng(seed)
        groups = -(-columns // group_size)
        limit = 127 >> (bits - 1) if bits < 8 else 1
        return TiledMatrix(
            rows,
            columns,
            bits,
            group_size,
            rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8),
            rng.integers(-limit if bits < 8 else 0, limit + 1, (rows, groups)).astype(np.int8),
            np.ones(rows, np.float32) if unit_scales else rng.uniform(0.01, 0.02, rows).astype(np.float32),
        )

    return make
