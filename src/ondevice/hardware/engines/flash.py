"""A matrix product shared between flash dies and a processor, bit for bit.

Knows how a matrix lies in pages, which of them are multiplied where they lie, and what the codes of a page repair.
Knows nothing of time (`ondevice.devices.simulate.flash`) or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.hardware.ecc import Bits, Bytes, OutlierECC


@dataclass(frozen=True)
class FlashMatrix:
    """An 8-bit matrix (rows, columns) in pages. pages (n, page): row by row, tiles of page / width rows and `width`
    columns, zeros beyond the edges. spare: their spare areas. in_flash: how many pages, the first, are multiplied by
    the cores; the processor reads the others."""

    rows: int
    columns: int
    width: int
    code: OutlierECC
    pages: Bytes
    spare: Bits
    in_flash: int

    @classmethod
    def store(cls, matrix: Bytes, code: OutlierECC, width: int, alpha: float) -> FlashMatrix:
        """width: columns of a page's tile. alpha: share of pages that the cores multiply. Raises BadInput for a width
        that does not fill a page, or another share than 0 to 1."""
        if width < 1 or code.page % width:
            raise BadInput(f"rows of {width} values do not fill a page of {code.page}")
        if not 0 <= alpha <= 1:
            raise BadInput(f"alpha is a share of the pages, 0 to 1, not {alpha}")
        rows, columns = matrix.shape
        height = code.page // width
        padded = np.pad(matrix, ((0, -rows % height), (0, -columns % width)))
        tiles = padded.reshape(len(padded) // height, height, -1, width).swapaxes(1, 2)
        pages = np.ascontiguousarray(tiles).reshape(-1, code.page)
        return cls(rows, columns, width, code, pages, code.encode(pages), round(alpha * len(pages)))

    def multiply(self, x: Bytes) -> npt.NDArray[np.int64]:
        """matrix @ x for x (columns,): partial outputs of the cores, then the processor's share, then the sums."""
        if x.shape != (self.columns,) or x.dtype != np.int8:
            raise BadInput(f"inputs must be ({self.columns},) of int8, not {x.shape} of {x.dtype}")
        height, across = self.code.page // self.width, -(-self.columns // self.width)
        slices = np.pad(x, (0, -self.columns % self.width)).reshape(across, self.width).astype(np.int32)
        tiles = self.code.decode(self.pages, self.spare).reshape(-1, height, self.width)
        partial = [
            np.einsum(
                "thw,tw->th", tiles[share].astype(np.int32), slices[np.arange(len(tiles))[share] % across]
            )
            for share in (slice(self.in_flash), slice(self.in_flash, None))
        ]
        sums = np.concatenate(partial).reshape(-1, across, height).astype(np.int64).sum(1)
        return np.asarray(sums.reshape(-1)[: self.rows], np.int64)
