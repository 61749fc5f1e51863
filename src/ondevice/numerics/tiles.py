"""Tiled matrices: the one layout of quantised weights on disk, in memory and in the stream.

Knows NumPy. Knows nothing of layers, files or instruction sets; every kernel reads it as stored.

A matrix W (rows = outputs, columns = inputs) is kept as codes u of `bits` bits, one signed multiplier m for
each row and group of columns, and one float32 scale for each row:

    w8 = m * (u - 2**(bits-1)), always within int8          W = scale * w8

So it is an int8 matrix with a scale a row, stored in fewer bits: a kernel unpacks a panel to int8 once and
then needs no work a group. A negative multiplier lets the odd level -2**(bits-1) lie on either side.
After the progressive group quantisation of QServe (Lin et al. 2024, section 4.1), here symmetric.

The bytes: panels of 16 rows, each
    scales       16 float32
    multipliers  int8 [groups][16 rows], padded with zeros to a multiple of 64 bytes
    codes        for each group, for each bit plane (widths 4, 2, 1 that add up to `bits`, lowest bits first;
                 8 bits: one plane of 8), group_size * 16 * width / 8 bytes
A group unpacks to [quad of 4 columns][16 rows][4 columns], 64 bytes a quad. A plane of width w keeps quads
v * 8/w + i, i = 0 .. 8/w - 1, in the 64 bytes of vector v at bit i * w. Rows are padded to 16 with scale 0,
columns to a multiple of group_size with code 2**(bits-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Ints8 = npt.NDArray[np.int8]

PANEL = 16
LAYOUT_VERSION = 1
PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@dataclass(frozen=True)
class TiledMatrix:
    """codes: uint8 (rows, columns). multipliers: int8 (rows, groups). scales: float32 (rows,)."""

    rows: int
    columns: int
    bits: int
    group_size: int
    codes: Bytes
    multipliers: Ints8
    scales: Floats

    def __post_init__(self) -> None:
        check_format(self.rows, self.columns, self.bits, self.group_size)
        groups = -(-self.columns // self.group_size)
        for name, array, shape in (
            ("codes", self.codes, (self.rows, self.columns)),
            ("multipliers", self.multipliers, (self.rows, groups)),
            ("scales", self.scales, (self.rows,)),
        ):
            if array.shape != shape:
                raise BadInput(f"{name} of shape {array.shape}, expected {shape}")

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return stored_bytes(self.rows, self.columns, self.bits, self.group_size)

    def int8(self) -> Ints8:
        """w8, int8 (rows, columns): W = scales[:, None] * w8."""
        spread = np.repeat(self.multipliers, self.group_size, axis=1)[:, : self.columns]
        return (spread * (self.codes - np.uint8(1 << (self.bits - 1))).view(np.int8)).astype(np.int8)

    def dequantize(self) -> Floats:
        """The matrix in float32 (rows, columns)."""
        return self.int8() * self.scales[:, None]

    def to_bytes(self) -> Bytes:
        """The stored form, uint8 (nbytes,)."""
        panels, groups = -(-self.rows // PANEL), self.multipliers.shape[1]
        scales = np.zeros((panels * PANEL,), np.float32)
        scales[: self.rows] = self.scales
        multipliers = np.zeros((panels * PANEL, groups), np.int8)
        multipliers[: self.rows] = self.multipliers
        codes = np.full((panels * PANEL, groups * self.group_size), 1 << (self.bits - 1), np.uint8)
        codes[: self.rows, : self.columns] = self.codes
        out = np.zeros((panels, _panel_bytes(groups, self.bits, self.group_size)), np.uint8)
        out[:, :64] = scales.view(np.uint8).reshape(panels, 64)
        by_group = np.ascontiguousarray(multipliers.reshape(panels, PANEL, groups).transpose(0, 2, 1))
        out[:, 64 : 64 + groups * PANEL] = by_group.view(np.uint8).reshape(panels, -1)
        # (panel, row, group, quad, 4) -> (panel, group, quad, row * 4)
        quads = codes.reshape(panels, PANEL, groups, self.group_size // 4, 4).transpose(0, 2, 3, 1, 4)
        quads = np.ascontiguousarray(quads).reshape(panels, groups, self.group_size // 4, 64)
        planes = []
        for width, low in _planes(self.bits):
            part = (quads >> np.uint8(low)) & np.uint8((1 << width) - 1)
            part = part.reshape(panels, groups, -1, 8 // width, 64)
            packed = np.zeros((panels, groups, part.shape[2], 64), np.uint8)
            for i in range(8 // width):
                packed |= part[:, :, :, i] << np.uint8(i * width)
            planes.append(packed.reshape(panels, groups, -1))
        out[:, _codes_at(groups) :] = np.concatenate(planes, axis=2).reshape(panels, -1)
        return out.ravel()

    @classmethod
    def from_bytes(cls, stored: Bytes, rows: int, columns: int, bits: int, group_size: int) -> TiledMatrix:
        """Read the stored form. Raises BadInput where the number of bytes does not fit the shape."""
        check_format(rows, columns, bits, group_size)
        expected = stored_bytes(rows, columns, bits, group_size)
        if stored.size != expected:
            raise BadInput(
                f"{stored.size} bytes for a {rows} x {columns} matrix at {bits} bits in groups of "
                f"{group_size}, expected {expected}"
            )
        panels, groups = -(-rows // PANEL), -(-columns // group_size)
        table = np.ascontiguousarray(stored).reshape(panels, -1)
        scales = np.ascontiguousarray(table[:, :64]).view(np.float32).reshape(-1)[:rows]
        by_group = table[:, 64 : 64 + groups * PANEL].reshape(panels, groups, PANEL)
        multipliers = by_group.transpose(0, 2, 1).reshape(-1, groups)[:rows].astype(np.uint8).view(np.int8)
        planes = table[:, _codes_at(groups) :].reshape(panels, groups, -1)
        quads = np.zeros((panels, groups, group_size // 4, 64), np.uint8)
        at = 0
        for width, low in _planes(bits):
            size = group_size * PANEL * width // 8
            packed = planes[:, :, at : at + size].reshape(panels, groups, -1, 1, 64)
            shifts = (np.arange(8 // width, dtype=np.uint8) * np.uint8(width))[:, None]
            part = (packed >> shifts) & np.uint8((1 << width) - 1)
            quads |= part.reshape(quads.shape) << np.uint8(low)
            at += size
        codes = quads.reshape(panels, groups, group_size // 4, PANEL, 4).transpose(0, 3, 1, 2, 4)
        codes = codes.reshape(panels * PANEL, -1)[:rows, :columns]
        return cls(rows, columns, bits, group_size, np.ascontiguousarray(codes), multipliers, scales.copy())


def check_format(rows: int, columns: int, bits: int, group_size: int) -> None:
    """Raise BadInput unless a matrix of this shape can be stored so."""
    if rows < 1 or columns < 1:
        raise BadInput(f"a matrix of {rows} x {columns} cannot be stored in tiles")
    if bits not in PLANES:
        raise BadInput(f"bits must be 1 to 8, not {bits}")
    if group_size < 32 or group_size % 32:
        raise BadInput(f"group_size must be a positive multiple of 32, not {group_size}")


def stored_bytes(rows: int, columns: int, bits: int, group_size: int) -> int:
    """Bytes of a rows x columns matrix in tiles."""
    check_format(rows, columns, bits, group_size)
    return -(-rows // PANEL) * _panel_bytes(-(-columns // group_size), bits, group_size)


def choose_scales(
    weight: Floats, bits: int, group_size: int, importance: Floats | None = None
) -> tuple[Floats, Ints8]:
    """Scales (rows,) and multipliers (rows, groups) that minimise the squared rounding error of a matrix.

    importance: weight of each column's error, (columns,); for a linear layer E[x_k**2].
    For each group the best step is searched among fractions of its largest value (clipping a little pays
    at few bits); then for each row the scale whose integer multiples serve its groups best.
    """
    _check_weight(weight)
    rows, columns = weight.shape
    check_format(rows, columns, bits, group_size)
    groups = -(-columns // group_size)
    padding = ((0, 0), (0, groups * group_size - columns))
    each = np.ones(columns, np.float32) if importance is None else np.asarray(importance, np.float32)
    if each.shape != (columns,):
        raise BadInput(f"importance of shape {each.shape}, expected ({columns},)")
    each = np.pad(each, padding[1]).reshape(groups, group_size)
    scales = np.empty(rows, np.float32)
    multipliers = np.empty((rows, groups), np.int8)
    block = max(1, 32768 // columns)  # rows at a time, so that the search stays in the cache
    for start in range(0, rows, block):
        part = np.pad(weight[start : start + block], padding).reshape(-1, groups, group_size)
        scales[start : start + block], multipliers[start : start + block] = _search(part, bits, each)
    return scales, multipliers


def round_to_nearest(weight: Floats, scales: Floats, multipliers: Ints8, bits: int, group_size: int) -> Bytes:
    """The codes, uint8 (rows, columns), nearest to a matrix for given scales and multipliers."""
    steps = np.repeat(scales[:, None] * multipliers, group_size, axis=1)[:, : weight.shape[1]]
    middle = 1 << (bits - 1)
    inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps != 0)
    return (np.clip(np.rint(weight * inverse), -middle, middle - 1) + middle).astype(np.uint8)


def quantize_tiled(
    weight: Floats, bits: int, group_size: int = 32, importance: Floats | None = None
) -> TiledMatrix:
    """Quantise a matrix by searched scales and rounding to nearest. Raises BadInput for NaN or infinity."""
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    scales, multipliers = choose_scales(weight, bits, group_size, importance)
    codes = round_to_nearest(weight, scales, multipliers, bits, group_size)
    rows, columns = weight.shape
    return TiledMatrix(rows, columns, bits, group_size, codes, multipliers, scales)


def _search(blocked: Floats, bits: int, importance: Floats) -> tuple[Floats, Ints8]:
    """blocked: (rows, groups, group_size); importance: (groups, group_size)."""
    middle = 1 << (bits - 1)
    largest = 127 // middle or 1  # of |m|, so that m * (u - middle) stays within int8
    low, high = blocked.min(axis=2), blocked.max(axis=2)
    sign = np.where(high > -low, -1, 1).astype(np.float32) if bits < 8 else np.ones_like(low)
    reach = np.maximum(high, -low) / np.float32(middle if bits < 8 else 127)
    steps, least = reach, np.full(reach.shape, np.inf, np.float32)
    for fraction in _FRACTIONS[bits]:
        trial = reach * np.float32(fraction)
        error = _error(blocked, trial * sign, middle, importance)
        better = error < least
        steps, least = np.where(better, trial, steps), np.where(better, error, least)
    best_scales = np.zeros(len(blocked), np.float32)
    best = np.zeros(reach.shape, np.float32)
    lowest = np.full(len(blocked), np.inf, np.float32)
    for fraction in _ROW_FRACTIONS if largest > 1 else (1.0,):
        scales = steps.max(axis=1) * np.float32(fraction / largest)
        ideal = np.divide(steps, scales[:, None], out=np.zeros_like(steps), where=scales[:, None] > 0)
        chosen, error = np.zeros_like(steps), np.full(steps.shape, np.inf, np.float32)
        for rounded in (np.floor(ideal), np.ceil(ideal)) if largest > 1 else (np.ceil(ideal),):
            trial = np.clip(rounded, 1, largest) * sign
            trial_error = _error(blocked, trial * scales[:, None], middle, importance)
            better = trial_error < error
            chosen, error = np.where(better, trial, chosen), np.where(better, trial_error, error)
        better_row = error.sum(axis=1) < lowest
        lowest = np.where(better_row, error.sum(axis=1), lowest)
        best_scales = np.where(better_row, scales, best_scales)
        best = np.where(better_row[:, None], chosen, best)
    return best_scales, best.astype(np.int8)


_FRACTIONS: dict[int, tuple[float, ...]] = {
    1: (0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    2: (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0),
    3: (0.65, 0.72, 0.79, 0.86, 0.93, 1.0, 1.07),
    4: (0.8, 0.86, 0.92, 0.96, 1.0, 1.05),
    5: (0.88, 0.92, 0.96, 1.0, 1.03),
    6: (0.94, 0.97, 1.0, 1.02),
    7: (0.98, 1.0),
    8: (1.0,),
}
_ROW_FRACTIONS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


def _error(blocked: Floats, steps: Floats, middle: int, importance: Floats) -> Floats:
    """Weighted squared error of each group, (rows, groups), when its step is `steps`."""
    inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps != 0)[:, :, None]
    rounded = blocked * inverse
    np.rint(rounded, out=rounded)
    np.clip(rounded, -middle, middle - 1, out=rounded)
    rounded *= steps[:, :, None]
    rounded -= blocked
    np.square(rounded, out=rounded)
    return np.asarray(np.einsum("rgk,gk->rg", rounded, importance), dtype=np.float32)


def _check_weight(weight: npt.NDArray[Any]) -> None:
    if weight.ndim != 2:
        raise BadInput(f"a weight matrix has two axes, not shape {weight.shape}")
    if not np.isfinite(weight).all():
        raise BadInput("the weight holds NaN or infinite values")


def _planes(bits: int) -> Iterator[tuple[int, int]]:
    """(width, lowest bit) of each plane."""
    low = 0
    for width in PLANES[bits]:
        yield width, low
        low += width


def _codes_at(groups: int) -> int:
    return 64 + -(-groups * PANEL // 64) * 64


def _panel_bytes(groups: int, bits: int, group_size: int) -> int:
    return _codes_at(groups) + groups * group_size * PANEL * bits // 8
