"""The memory of a key-value cache: pages of 64 tokens that sequences take from one pool.

Knows the layout that kernels read, which page belongs to which sequence's place, and what may be added to scores.
Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

PAGE = 64  # tokens
CacheDtype = Literal["float32", "float16", "int8", "int4"]
CACHE_DTYPES: tuple[CacheDtype, ...] = get_args(CacheDtype)
_BITS = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
_MOST = {"int8": 127, "int4": 7}  # the largest code
_STORED: dict[str, type] = {"float32": np.float32, "float16": np.float16, "int8": np.int8, "int4": np.uint8}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerCache:
    """The pages of one layer.

    pool: uint8 (pages, heads, bytes): for each head keys (head_size, 64), then values (64, head_size). int8 and int4
    are symmetric, with one scale (float16) for each token of a head, kept behind the values. head_size: a multiple
    of 16, for int4 of 32.
    """

    pool: npt.NDArray[np.uint8]
    head_size: int
    dtype: CacheDtype

    def __post_init__(self) -> None:
        if self.dtype not in CACHE_DTYPES:
            raise BadInput(f"a cache is kept as {', '.join(CACHE_DTYPES)}, not {self.dtype!r}")
        least = 32 if self.dtype == "int4" else 16
        if self.head_size < least or self.head_size % least:
            raise BadInput(f"head_size must be a multiple of {least} for {self.dtype}, not {self.head_size}")
        wanted = self.head_bytes(self.head_size, self.dtype)
        if self.pool.dtype != np.uint8 or self.pool.ndim != 3 or self.pool.shape[2] != wanted:
            raise BadInput(
                f"a pool is uint8 (pages, heads, {wanted}), not {self.pool.dtype} {self.pool.shape}"
            )
        if not self.pool.flags.c_contiguous:
            raise BadInput("a pool must be C-contiguous")

    @property
    def heads(self) -> int:
        """Key-value heads."""
        return int(self.pool.shape[1])

    @staticmethod
    def head_bytes(head_size: int, dtype: CacheDtype) -> int:
        """Of one head in one page."""
        return 2 * PAGE * (head_size * _BITS[dtype] // 8 + (2 if dtype in _MOST else 0))

    @classmethod
    def empty(cls, pages: int, heads: int, head_size: int, dtype: CacheDtype = "float16") -> LayerCache:
        if dtype not in CACHE_DTYPES:
            raise BadInput(f"a cache is kept as {', '.join(CACHE_DTYPES)}, not {dtype!r}")
        return cls(np.zeros((pages, heads, cls.head_bytes(head_size, dtype)), np.uint8), head_size, dtype)

    def keys(self, page: int) -> Floats:
        """float32 (heads, head_size, 64)."""
        codes, scales = self._part(page, 0)
        if self.dtype == "int4":
            codes = np.stack(_nibbles(codes), axis=2)  # of values 2 d and 2 d + 1
        keys = codes.reshape(self.heads, self.head_size, PAGE).astype(np.float32)
        return np.asarray(keys * scales[:, None], np.float32)

    def values(self, page: int) -> Floats:
        """float32 (heads, 64, head_size)."""
        codes, scales = self._part(page, 1)
        if self.dtype == "int4":
            codes = np.concatenate(_nibbles(codes), axis=2)  # of values d and d + head_size / 2
        return np.asarray(codes.astype(np.float32) * scales[:, :, None], np.float32)

    def write(self, page: int, slot: int, keys: Floats, values: Floats) -> None:
        """Keep what one token leaves, (heads, head_size) each, at `slot` of a page."""
        for which, rows in enumerate((keys, values)):
            codes, scales = self._part(page, which)
            stored: npt.NDArray[Any] = rows
            if self.dtype in _MOST:
                stored, scales[:, slot] = _quantized(rows, _MOST[self.dtype])
            if self.dtype == "int4":
                pairs = (stored[:, ::2], stored[:, 1::2]) if which == 0 else np.split(stored, 2, axis=1)
                stored = (pairs[0] + 8 | pairs[1] + 8 << 4).astype(np.uint8)
            with np.errstate(over="ignore"):  # beyond a half it is infinite
                if which == 0:
                    codes[:, :, slot] = stored
                else:
                    codes[:, slot] = stored

    def move(self, slots: npt.NDArray[np.int32], to: npt.NDArray[np.int32]) -> None:
        """What tokens left in slots (page * 64 + place in it), as it is stored, to others."""
        for source, target in zip(slots.tolist(), to.tolist(), strict=True):
            for which in (0, 1):
                old, old_scales = self._part(source // PAGE, which)
                new, new_scales = self._part(target // PAGE, which)
                axis = 2 if which == 0 else 1
                np.moveaxis(new, axis, 0)[target % PAGE] = np.moveaxis(old, axis, 0)[source % PAGE]
                new_scales[:, target % PAGE] = old_scales[:, source % PAGE]

    def _part(self, page: int, which: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Views of what is stored of keys (0) or values (1), and its scales (heads, 64), ones for floats."""
        size = PAGE * self.head_size * _BITS[self.dtype] // 8
        flat: npt.NDArray[Any] = self.pool[page, :, which * size : (which + 1) * size].view(
            _STORED[self.dtype]
        )
        codes: npt.NDArray[Any] = flat.reshape(
            (self.heads, -1, PAGE) if which == 0 else (self.heads, PAGE, -1)
        )
        if self.dtype not in _MOST:
            return codes, np.ones((self.heads, PAGE), np.float32)
        scales = self.pool[page, :, 2 * size + which * 2 * PAGE :][:, : 2 * PAGE].view(np.float16)
        return codes, scales


def _nibbles(codes: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    return (codes & 15).astype(np.int8) - 8, (codes >> 4).astype(np.int8) - 8


def _quantized(rows: Floats, most: int) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float16]]:
    """Codes (heads, head_size) and scales (heads,). What is not finite gets a scale that makes NaN of it."""
    with np.errstate(over="ignore", invalid="ignore"):
        top = np.abs(rows).max(axis=1)
        half = np.where(np.isfinite(top), top / np.float32(most), np.float32(np.nan)).astype(np.float16)
        scale = half.astype(np.float32)[:, None]
        usable = np.isfinite(scale) & (scale > 0)
        codes = np.where(usable, np.rint(rows / np.where(usable, scale, np.float32(1))), np.float32(0))
    return np.clip(codes, -most, most).astype(np.int8), half


@dataclass(frozen=True)
class Places:
    """Where the tokens of one step belong.

    sequences, positions: int32 (tokens,): each token's row of `tables` and its place in that sequence; tokens of a
    sequence lie one after another, in order. tables: int32 (sequences, pages): the pages of each sequence.
    slots: None, or int32 (tokens,): where a token that is a branch of a tree leaves its keys and values (page * 64 +
    place in it) rather than at its position, which several may have; -1 for the others. Each branch comes after what
    it follows, and all that follow it before the next branch at its position. Attention finds every number where it
    would lie without branches, so that its bits are the same; afterwards each position holds what the last branch
    there left.
    """

    sequences: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    tables: npt.NDArray[np.int32]
    slots: npt.NDArray[np.int32] | None = None

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
        slots = self.slots
        if slots is not None:
            if slots.dtype != np.int32 or slots.shape != (tokens,) or not slots.flags.c_contiguous:
                raise BadInput(f"slots must be int32 ({tokens},), not {slots.dtype} {slots.shape}")
            if tokens and not -1 <= slots.min() <= slots.max() < len(cache.pool) * PAGE:
                raise BadInput(f"a slot is outside the {len(cache.pool)} pages of the pool")
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


@dataclass(frozen=True)
class Bias:
    """What is added to the scores of one step's tokens.

    values: float32 (heads, n). starts: int32 (tokens,): the score of head h with the token at place j gets
    values[h, starts + j]. Whole pages are read, so n reaches to the end of a token's last one. With the values of a
    distance d at origin + d, starts are origin less each token's place.
    """

    values: Floats
    starts: npt.NDArray[np.int32]

    def check(self, heads: int, places: Places) -> None:
        """Raise BadInput unless these are for so many heads and the tokens at these places."""
        if (
            self.values.dtype != np.float32
            or self.values.ndim != 2
            or not self.values.flags.c_contiguous
            or len(self.values) != heads
        ):
            raise BadInput(
                f"a bias must be C-contiguous float32 ({heads}, n), not {self.values.dtype} {self.values.shape}"
            )
        starts, positions = self.starts, places.positions
        if starts.dtype != np.int32 or starts.shape != positions.shape or not starts.flags.c_contiguous:
            raise BadInput(
                f"starts must be int32 {positions.shape}, one a token, not {starts.dtype} {starts.shape}"
            )
        if not len(starts):
            return
        last = int((starts.astype(np.int64) + (positions // PAGE + 1) * PAGE).max())
        if starts.min() < 0 or last > self.values.shape[1]:
            raise BadInput(f"a token's bias lies outside the {self.values.shape[1]} values of a head")
