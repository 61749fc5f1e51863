"""Outlier codes: 8-bit weights of a flash page survive bit errors because what is large is kept three times.

Knows pages of signed bytes and their spare area, bit for bit. Knows nothing of flash timing, models or RTL
(`units/flash_core.py` decodes the same bits).

Source: Yu et al., "Cambricon-LLM" (2024), on-die error correction; the paper's exact layout was not at hand. Here: the
largest magnitudes of a page are kept as an address with an extended Hamming code (one error corrected, two found) and
two copies of the value, in the order of addresses; the smallest of their magnitudes nine times. A value that is not
protected and is larger than that cannot be right, and becomes 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Bytes = npt.NDArray[np.int8]
Bits = npt.NDArray[np.uint8]

THRESHOLD_COPIES = 9


@dataclass(frozen=True)
class Hamming:
    """Extended Hamming code of `bits` data bits. Positions count from 1, checks stand at the powers of two, the parity
    of all comes last. Hamming 1950."""

    bits: int

    @property
    def checks(self) -> int:
        """Without the last parity."""
        return next(count for count in range(2, 32) if 2**count > self.bits + count)

    @property
    def length(self) -> int:
        return self.bits + self.checks + 1

    @property
    def data_positions(self) -> list[int]:
        """Of the data bits, the lowest first."""
        return [at for at in range(1, self.length) if at & (at - 1)]

    def encode(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Codewords, position p in bit p - 1."""
        words = np.zeros_like(values)
        for bit, at in enumerate(self.data_positions):
            words |= (values >> bit & 1) << (at - 1)
        for check in range(self.checks):
            covered = sum(1 << (at - 1) for at in range(1, self.length) if at >> check & 1)
            words |= (np.bitwise_count(words & covered).astype(np.int64) & 1) << ((1 << check) - 1)
        return words | (np.bitwise_count(words).astype(np.int64) & 1) << (self.length - 1)

    def decode(self, words: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Values, and which can be used: all but those with two errors."""
        syndrome = np.zeros_like(words)
        for check in range(self.checks):
            covered = sum(1 << (at - 1) for at in range(1, self.length) if at >> check & 1)
            syndrome |= (np.bitwise_count(words & covered).astype(np.int64) & 1) << check
        odd = (np.bitwise_count(words) & 1).astype(bool)
        inside = syndrome < self.length
        repaired = np.where(odd & (syndrome > 0) & inside, words ^ (1 << np.maximum(syndrome - 1, 0)), words)
        values = np.zeros_like(words)
        for bit, at in enumerate(self.data_positions):
            values |= (repaired >> (at - 1) & 1) << bit
        return values, np.where(odd, inside, syndrome == 0)


@dataclass(frozen=True)
class OutlierECC:
    """page: values of a page, an even number. protected: how many are kept three times; 1 % unless given."""

    page: int = 16384
    protected: int | None = None

    def __post_init__(self) -> None:
        if self.page < 8 or self.page % 2:
            raise BadInput(f"a page holds an even number of values, 8 or more, not {self.page}")
        if not 1 <= self.kept <= self.page:
            raise BadInput(f"{self.kept} of {self.page} values cannot be protected; choose from 1 to all")

    @property
    def kept(self) -> int:
        return max(1, self.page // 100) if self.protected is None else self.protected

    @property
    def address(self) -> Hamming:
        return Hamming((self.page - 1).bit_length())

    @property
    def entry_bits(self) -> int:
        return self.address.length + 16

    @property
    def spare_bits(self) -> int:
        """Of a page: entries, then the threshold's copies."""
        return self.kept * self.entry_bits + 8 * THRESHOLD_COPIES

    def encode(self, pages: Bytes) -> Bits:
        """Spare areas of pages (n, page), as bits (n, spare_bits), the lowest of each field first. Raises BadInput for
        -128, which symmetric quantisation does not use, and for pages of another size."""
        if pages.ndim != 2 or pages.shape[1] != self.page or pages.dtype != np.int8:
            raise BadInput(f"pages must be (n, {self.page}) of int8, not {pages.shape} of {pages.dtype}")
        if (pages == -128).any():
            raise BadInput("a page holds -128; weights must be quantised symmetrically, -127 to 127")
        size = np.abs(pages.astype(np.int64))
        where = np.sort(np.argsort(-size, axis=1, kind="stable")[:, : self.kept], axis=1)
        values = np.take_along_axis(pages, where, 1).view(np.uint8).astype(np.int64)
        entries = self.address.encode(where) | values << self.address.length
        entries |= values << (self.address.length + 8)
        threshold = np.take_along_axis(size, where, 1).min(1)
        copies = _bits(np.repeat(threshold[:, None], THRESHOLD_COPIES, 1), 8)
        return np.concatenate([_bits(entries, self.entry_bits), copies], axis=1)

    def entries(self, spare: Bits) -> npt.NDArray[np.int64]:
        """The entries of spare areas as numbers, (n, kept)."""
        return _numbers(spare[:, : self.kept * self.entry_bits], self.entry_bits)

    def threshold(self, spare: Bits) -> npt.NDArray[np.int64]:
        """By majority of each bit over its copies, (n,)."""
        copies = spare[:, self.kept * self.entry_bits :].reshape(len(spare), THRESHOLD_COPIES, 8)
        return _numbers((copies.sum(1) > THRESHOLD_COPIES // 2).astype(np.uint8), 8)[:, 0]

    def decode(self, pages: Bytes, spare: Bits) -> Bytes:
        """What the core multiplies, (n, page). Values go by in pairs; an entry whose address has two errors, or whose
        pair has gone by, is passed over."""
        if spare.shape != (len(pages), self.spare_bits):
            raise BadInput(f"spare areas must be {(len(pages), self.spare_bits)} bits, not {spare.shape}")
        raw = pages.view(np.uint8)
        size = np.abs(pages.astype(np.int64))
        out = np.where(size > self.threshold(spare)[:, None], np.int8(0), pages)
        entries = self.entries(spare)
        where, usable = self.address.decode(entries & ((1 << self.address.length) - 1))
        usable &= where < self.page
        pair = np.where(usable, where >> 1, -1)
        usable &= pair >= np.maximum.accumulate(pair, axis=1)
        first, second = (
            (entries >> (self.address.length + shift) & 255).astype(np.uint8) for shift in (0, 8)
        )
        found = np.take_along_axis(raw, np.where(usable, where, 0), 1)
        voted = (found & first | found & second | first & second).view(np.int8)
        rows = np.broadcast_to(np.arange(len(pages))[:, None], where.shape)
        for entry in range(self.kept):  # one after another: where two name one address, the later one counts
            good = usable[:, entry]
            out[rows[good, entry], where[good, entry]] = voted[good, entry]
        return out


def flip(bits: Bits, rate: float, rng: np.random.Generator) -> Bits:
    """Each bit, 0 or 1, turned over with probability `rate`."""
    if not 0 <= rate <= 1:
        raise BadInput(f"a rate of errors lies between 0 and 1, not {rate}")
    count = rng.binomial(bits.size, rate)
    out = bits.copy()
    out.reshape(-1)[rng.choice(bits.size, count, replace=False, shuffle=False)] ^= 1
    return out


def flip_values(values: Bytes, rate: float, rng: np.random.Generator) -> Bytes:
    """The same for the bits of bytes."""
    return (
        np.packbits(flip(np.unpackbits(values.view(np.uint8)), rate, rng)).view(np.int8).reshape(values.shape)
    )


def _bits(numbers: npt.NDArray[np.int64], width: int) -> Bits:
    bits = numbers[:, :, None] >> np.arange(width) & 1
    return bits.reshape(len(numbers), -1).astype(np.uint8)


def _numbers(bits: Bits, width: int) -> npt.NDArray[np.int64]:
    fields = bits.reshape(len(bits), -1, width).astype(np.int64)
    return np.asarray((fields << np.arange(width)).sum(2), np.int64)
