"""The memory of a key-value cache: pages of 64 tokens that sequences take from one pool.

Knows the layout that kernels read and which page belongs to which sequence's place. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

PAGE = 64  # tokens


@dataclass(frozen=True)
class LayerCache:
    """The pages of one layer.

    pool: float32 or float16 (pages, heads, 2 * 64 * head_size): for each head keys (head_size, 64), then values
    (64, head_size). head_size: a multiple of 16.
    """

    pool: npt.NDArray[np.floating]
    head_size: int

    def __post_init__(self) -> None:
        if self.pool.dtype not in (np.float32, np.float16) or not self.pool.flags.c_contiguous:
            raise BadInput(f"a cache is C-contiguous float32 or float16, not {self.pool.dtype}")
        if self.head_size < 16 or self.head_size % 16:
            raise BadInput(f"head_size must be a multiple of 16, not {self.head_size}")
        if self.pool.ndim != 3 or self.pool.shape[2] != 2 * PAGE * self.head_size:
            raise BadInput(
                f"a cache for heads of {self.head_size} has rows of {2 * PAGE * self.head_size} values, not a "
                f"shape of {self.pool.shape}"
            )

    @property
    def heads(self) -> int:
        """Key-value heads."""
        return int(self.pool.shape[1])

    @classmethod
    def empty(cls, pages: int, heads: int, head_size: int, dtype: type = np.float16) -> LayerCache:
        return cls(np.zeros((pages, heads, 2 * PAGE * head_size), dtype), head_size)

    def keys(self, page: int) -> npt.NDArray[np.floating]:
        """A view (heads, head_size, 64)."""
        part = self.pool[page, :, : PAGE * self.head_size]
        return part.reshape(self.heads, self.head_size, PAGE)

    def values(self, page: int) -> npt.NDArray[np.floating]:
        """A view (heads, 64, head_size)."""
        return self.pool[page, :, PAGE * self.head_size :].reshape(self.heads, PAGE, self.head_size)


@dataclass(frozen=True)
class Places:
    """Where the tokens of one step belong.

    sequences, positions: int32 (tokens,): each token's row of `tables` and its place in that sequence; tokens of a
    sequence lie one after another, in order. tables: int32 (sequences, pages): the pages of each sequence.
    """

    sequences: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    tables: npt.NDArray[np.int32]

    def check(self, tokens: int, cache: LayerCache) -> None:
        """Raise BadInput unless these are places for so many tokens in that cache."""
        for name in ("sequences", "positions"):
            array = getattr(self, name)
            if array.dtype != np.int32 or array.shape != (tokens,) or not array.flags.c_contiguous:
                raise BadInput(f"{name} must be int32 ({tokens},), not {array.dtype} {array.shape}")
        tables = self.tables
        if tables.dtype != np.int32 or tables.ndim != 2 or not tables.flags.c_contiguous:
            raise BadInput(
                f"tables must be C-contiguous int32 of two axes, not {tables.dtype} {tables.shape}"
            )
        if not tokens:
            return
        if self.sequences.min() < 0 or self.sequences.max() >= len(tables):
            raise BadInput(f"a token belongs to a sequence that is none of the {len(tables)}")
        if self.positions.min() < 0 or self.positions.max() >= tables.shape[1] * PAGE:
            raise BadInput(f"a position is outside the {tables.shape[1]} pages of its sequence")
        lowest, highest = self._pages
        if lowest < 0 or highest >= len(cache.pool):
            raise BadInput(f"a sequence names a page outside the {len(cache.pool)} of the pool")

    @cached_property
    def _pages(self) -> tuple[int, int]:
        """The lowest and highest page that the tokens reach back to; the same for every layer of a step."""
        last = np.full(len(self.tables), -1, np.int64)
        np.maximum.at(last, self.sequences, self.positions // PAGE)
        used = self.tables[np.arange(self.tables.shape[1]) <= last[:, None]]
        return int(used.min()), int(used.max())
