"""Bit-nested matrices: every width is a prefix of the next, so that one stored copy serves several precisions.

Knows NumPy and the tiled layout. Knows nothing of how the codes were chosen, of layers or files.

The base is a tiled matrix of the lowest width. Each further bit is a plane of signs, a multiplier a row and group:

    W_1 = scale * m_1 * (u - 2**(bits-1))        W_k = W_(k-1) + scale / 2**shift * m_k * (2 u_k - 1)

So at every width the matrix is integers times a scale a row: products with integer activations are exact, in whatever
order planes are added. shift = bits of the base - 2 leaves room between the steps of a base of many bits.

The bytes of a plane: panels of 16 rows, each
    multipliers  int8 [groups][16 rows], 0 to 127
    codes        for each group the plane of one bit of `tiles`, group_size * 2 bytes
Rows are padded to 16 with multiplier 0, columns to a multiple of group_size.

Source: the D2MoE paper's Matryoshka weight quantisation; Nair et al. 2025, "Matryoshka Quantization", for the idea.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.numerics.tiles import PANEL, Bytes, Floats, Ints8, TiledMatrix

LARGEST = 127  # multiplier of a plane


@dataclass(frozen=True)
class SignPlane:
    """codes: uint8 (rows, columns), 1 for plus and 0 for minus. multipliers: int8 (rows, groups), not negative."""

    codes: Bytes
    multipliers: Ints8

    def integers(self, group_size: int) -> npt.NDArray[np.int32]:
        """What the plane adds, in units of the row's scale / 2**shift, int32 (rows, columns)."""
        spread = np.repeat(self.multipliers.astype(np.int32), group_size, axis=1)[:, : self.codes.shape[1]]
        return spread * (2 * self.codes.astype(np.int32) - 1)

    def to_bytes(self, group_size: int) -> Bytes:
        """The stored form, uint8 (plane_bytes(rows, columns, group_size),)."""
        rows, columns = self.codes.shape
        tiled = TiledMatrix(
            rows, columns, 1, group_size, self.codes, self.multipliers, np.zeros(rows, np.float32)
        )
        table, groups = tiled.to_bytes().reshape(-(-rows // PANEL), -1), self.multipliers.shape[1]
        parts = (table[:, 64 : 64 + groups * PANEL], table[:, -groups * group_size * 2 :])
        return np.ascontiguousarray(np.concatenate(parts, axis=1)).ravel()

    @classmethod
    def from_bytes(cls, stored: Bytes, rows: int, columns: int, group_size: int) -> SignPlane:
        """Read the stored form. Raises BadInput where the number of bytes does not fit, or a multiplier is negative."""
        expected = plane_bytes(rows, columns, group_size)
        if stored.size != expected:
            raise BadInput(
                f"{stored.size} bytes for a plane of {rows} x {columns} in groups of {group_size}, not {expected}"
            )
        groups, table = -(-columns // group_size), np.ascontiguousarray(stored).reshape(-(-rows // PANEL), -1)
        head = np.zeros((len(table), 64 + -(-groups * PANEL // 64) * 64), np.uint8)
        head[:, 64 : 64 + groups * PANEL] = table[:, : groups * PANEL]
        tiles = np.concatenate([head, table[:, groups * PANEL :]], axis=1)
        matrix = TiledMatrix.from_bytes(tiles.ravel(), rows, columns, 1, group_size)
        if (matrix.multipliers < 0).any():
            raise BadInput("a plane holds a negative multiplier")
        return cls(matrix.codes, matrix.multipliers)


@dataclass(frozen=True)
class NestedMatrix:
    """base: of the lowest width. planes: one a further bit. Raises BadInput where they do not fit together, and for a
    base of more than 7 bits or planes beyond 8."""

    base: TiledMatrix
    planes: tuple[SignPlane, ...]

    def __post_init__(self) -> None:
        check_widths(self.widths)
        base = self.base
        shapes = ((base.rows, base.columns), base.multipliers.shape)
        for plane in self.planes:
            if (plane.codes.shape, plane.multipliers.shape) != shapes:
                raise BadInput(f"planes of {plane.codes.shape} do not fit a base of {base.codes.shape}")

    def __deepcopy__(self, memo: dict[int, object]) -> NestedMatrix:
        """Itself: nobody edits it, and a copy of a model shares what was not touched."""
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Bits, lowest first."""
        return tuple(range(self.base.bits, self.base.bits + len(self.planes) + 1))

    @property
    def shift(self) -> int:
        return shift_of(self.base.bits)

    @property
    def nbytes(self) -> int:
        """Stored size of all widths."""
        rows, columns, group_size = self.base.rows, self.base.columns, self.base.group_size
        return self.base.nbytes + len(self.planes) * plane_bytes(rows, columns, group_size)

    def integers(self, width: int) -> npt.NDArray[np.int32]:
        """int32 (rows, columns): W = integers * scale / 2**shift. Raises BadInput for a width that is not there."""
        if width not in self.widths:
            raise BadInput(f"{width} bits are not stored; there are: {', '.join(map(str, self.widths))}")
        total = self.base.int8().astype(np.int32) << self.shift
        for plane in self.planes[: width - self.base.bits]:
            total += plane.integers(self.base.group_size)
        return total

    def dequantize(self, width: int) -> Floats:
        """The matrix at a width, float32 (rows, columns)."""
        return (
            self.integers(width).astype(np.float32)
            * (self.base.scales / np.float32(1 << self.shift))[:, None]
        )


def shift_of(bits: int) -> int:
    """By how many bits the units of planes are finer than those of a base of so many bits."""
    return max(0, bits - 2)


def plane_bytes(rows: int, columns: int, group_size: int) -> int:
    """Stored size of one plane."""
    groups = -(-columns // group_size)
    return -(-rows // PANEL) * groups * (PANEL + 2 * group_size)


def check_widths(widths: tuple[int, ...]) -> None:
    """Raise BadInput unless these are consecutive numbers of bits, two or more, from 2 to 8."""
    if list(widths) != list(range(widths[0], widths[-1] + 1)) if widths else True:
        raise BadInput(f"nested widths are consecutive, each one bit more than the last, not {_said(widths)}")
    if len(widths) < 2 or widths[0] < 2 or widths[-1] > 8:
        raise BadInput(f"nested widths are two or more from 2 to 8 bits, not {_said(widths)}")


def _said(widths: tuple[int, ...]) -> str:
    return ", ".join(map(str, widths)) or "none"
