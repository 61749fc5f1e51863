"""Products with nested matrices, one bit plane after another, as planes come into memory.

Knows the stored bytes of a base and its planes (`numerics.nested`), and integers. Knows nothing of experts or of where
bytes come from. Sums stay integers until `finish`, so no order of planes, batch or number of threads changes a bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels import Kernels, reference
from ondevice.kernels.matrix import check, core
from ondevice.numerics.nested import SignPlane, plane_bytes, shift_of
from ondevice.numerics.tiles import PANEL, TiledMatrix, check_format, stored_bytes

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Sums = npt.NDArray[np.int32]


@dataclass(frozen=True)
class NestedShape:
    """rows = outputs, columns = inputs. bits: of the base. planes: beyond it."""

    rows: int
    columns: int
    bits: int
    group_size: int
    planes: int

    def __post_init__(self) -> None:
        check_format(self.rows, self.columns, self.bits, self.group_size)
        if not 2 <= self.bits <= 7 or not 1 <= self.planes <= 8 - self.bits:
            raise BadInput(
                f"a base of {self.bits} bits with {self.planes} planes; they are 3 to 8 bits together"
            )
        # int8 activations times integers below 2**(8 + shift): so many columns are summed in 32 bits
        most = 1 << (31 - 7 - 7 - 1 - self.shift)
        if self.columns > most:
            raise BadInput(
                f"{self.columns} columns; with a base of {self.bits} bits at most {most} are summed exactly"
            )

    @property
    def shift(self) -> int:
        return shift_of(self.bits)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(range(self.bits, self.bits + self.planes + 1))

    def nbytes(self, step: int) -> int:
        """Stored size of the base (step 0) or of a plane."""
        if step == 0:
            return stored_bytes(self.rows, self.columns, self.bits, self.group_size)
        return plane_bytes(self.rows, self.columns, self.group_size)


@dataclass(frozen=True)
class Rounded:
    """Activations in int8, as one instruction set reads them. sums: of each row's groups, int32 (rows, groups)."""

    stored: Bytes
    sums: Sums
    rows: int
    reference: tuple[npt.NDArray[np.int8], Floats] | None = None


class PlaneProducts:
    """Products by plane on the threads and the instruction set of some kernels."""

    def __init__(self, kernels: Kernels) -> None:
        self.instruction_set = kernels.instruction_set
        self._threads = kernels.threads

    @cached_property
    def _core(self) -> Any:
        native = core is not None and self.instruction_set != "reference"
        return core.Planes(self._threads, self.instruction_set) if native else None

    def round(self, x: Floats, group_size: int) -> Rounded:
        """Activations (tokens, columns) as int8, each token by its largest value."""
        check("x", x, x.shape)
        if x.ndim != 2 or not x.size:
            raise BadInput(f"activations are (tokens, columns), not {x.shape}")
        tokens, columns = x.shape
        sums = np.empty((tokens, -(-columns // group_size)), np.int32)
        if self._core is None:
            values, scales = reference.quantize(x, None)
            starts = np.arange(0, columns, group_size)
            sums[:] = np.add.reduceat(values.astype(np.int32), starts, axis=1)
            return Rounded(np.empty(0, np.uint8), sums, tokens, (values, scales))
        stored = np.empty((tokens, -(-columns // 64) * 64 + 64), np.uint8)
        self._core.quantize(x, group_size, stored, sums)
        return Rounded(stored, sums, tokens)

    def sums(self, tokens: int, shape: NestedShape) -> Sums:
        """Zeros that planes are added to, int32 (tokens, rows in whole panels)."""
        return np.zeros((tokens, -(-shape.rows // PANEL) * PANEL), np.int32)

    def add(self, shape: NestedShape, step: int, stored: Bytes, x: Rounded, tokens: int, sums: Sums) -> None:
        """Add the products of the first so many tokens with the base (step 0) or a plane, as it is stored.

        Raises BadInput where sizes do not fit together.
        """
        if stored.dtype != np.uint8 or stored.shape != (shape.nbytes(step),) or not stored.flags.c_contiguous:
            raise BadInput(f"step {step} takes {shape.nbytes(step)} bytes, not {stored.dtype} {stored.shape}")
        groups = -(-shape.columns // shape.group_size)
        fits = x.sums.shape[1] == groups and sums.shape[1] == -(-shape.rows // PANEL) * PANEL
        if not (0 <= step <= shape.planes and 0 <= tokens <= min(x.rows, len(sums)) and fits):
            raise BadInput(f"step {step} of {tokens} tokens does not fit {shape} and {x.rows} rows")
        if not tokens:
            return
        if self._core is None:
            _add(shape, step, stored, x, tokens, sums)
        elif step == 0:
            sizes = shape.rows, shape.columns, shape.bits, shape.group_size, shape.shift
            self._core.add_base(stored, *sizes, x.stored, x.sums, tokens, sums)
        else:
            self._core.add_signs(
                stored, shape.rows, shape.columns, shape.group_size, x.stored, x.sums, tokens, sums
            )

    def finish(self, shape: NestedShape, base: Bytes, x: Rounded, sums: Sums) -> Floats:
        """The products as float32 (tokens, rows). base: as it is stored; its scales are used."""
        out = np.empty((x.rows, shape.rows), np.float32)
        if base.shape != (shape.nbytes(0),) or len(sums) != x.rows:
            raise BadInput(
                f"sums {sums.shape} and a base of {base.shape} do not fit {x.rows} rows of {shape}"
            )
        if self._core is None:
            assert x.reference is not None
            units = _tiled(shape, base).scales * np.float32(1 / (1 << shape.shift))
            out[:] = sums[:, : shape.rows].astype(np.float32) * (x.reference[1][:, None] * units)
        else:
            sizes = shape.rows, shape.columns, shape.bits, shape.group_size, shape.shift
            self._core.finish(base, *sizes, x.stored, sums, out)
        return out


def _add(shape: NestedShape, step: int, stored: Bytes, x: Rounded, tokens: int, sums: Sums) -> None:
    assert x.reference is not None
    if step == 0:
        integers = _tiled(shape, stored).int8().astype(np.int32) << shape.shift
    else:
        plane = SignPlane.from_bytes(stored, shape.rows, shape.columns, shape.group_size)
        integers = plane.integers(shape.group_size)
    products = x.reference[0][:tokens].astype(np.float64) @ integers.T.astype(np.float64)
    sums[:tokens, : shape.rows] += products.astype(np.int32)


def _tiled(shape: NestedShape, stored: Bytes) -> TiledMatrix:
    return TiledMatrix.from_bytes(stored, shape.rows, shape.columns, shape.bits, shape.group_size)
