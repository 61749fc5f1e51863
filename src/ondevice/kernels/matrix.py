"""Weights as the kernels read them: views of stored bytes, checked once.

Knows the stored forms. Knows nothing of architectures, files or what a layer is for. Nothing is copied or
repacked.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.numerics.tiles import TiledMatrix, check_format, stored_bytes

core: Any = None  # the compiled core, where it was built
try:
    core = import_module("ondevice.kernels._core")
    core_missing = ""
except ImportError as problem:
    core_missing = str(problem)

Floats = npt.NDArray[np.float32]
MAX_COLUMNS = 131072  # up to here a sum of int8 products fits int32


class Matrix:
    """rows = outputs, columns = inputs. Make one by `Matrix.dense` or `Matrix.tiles`.

    The memory that it was made from must not change while it is in use.
    """

    def __init__(self, rows: int, columns: int, stored: npt.NDArray[Any], bits: int, group_size: int) -> None:
        self.rows, self.columns = rows, columns
        self._stored, self._bits, self._group_size = stored, bits, group_size
        self.tiled = bits > 0
        self.native: Any = None
        if columns > MAX_COLUMNS:
            raise BadInput(
                f"a matrix of {columns} columns is wider than the {MAX_COLUMNS} that kernels sum exactly"
            )
        if core is not None:
            flat = stored.reshape(-1).view(np.uint8)
            if self.tiled:
                self.native = core.Matrix.tiles(flat, rows, columns, bits, group_size)
            else:
                self.native = core.Matrix.dense(flat, stored.dtype == np.float16, rows, columns)

    @classmethod
    def dense(cls, values: npt.NDArray[Any]) -> Matrix:
        """values: float32 or float16, C-contiguous, (rows, columns). Raises BadInput for anything else."""
        if values.ndim != 2 or values.dtype not in (np.float32, np.float16) or 0 in values.shape:
            raise BadInput(
                f"a dense matrix is float32 or float16 with two axes, not {values.dtype} {values.shape}"
            )
        if not values.flags.c_contiguous:
            raise BadInput("a dense matrix must be C-contiguous; pass numpy.ascontiguousarray(values)")
        return cls(values.shape[0], values.shape[1], values, 0, 0)

    @classmethod
    def tiles(
        cls, stored: npt.NDArray[np.uint8], rows: int, columns: int, bits: int, group_size: int
    ) -> Matrix:
        """stored: uint8 (bytes,), the layout of `numerics.tiles`. Raises BadInput where its size is wrong."""
        check_format(rows, columns, bits, group_size)
        expected = stored_bytes(rows, columns, bits, group_size)
        if stored.dtype != np.uint8 or stored.ndim != 1 or stored.size != expected:
            raise BadInput(
                f"tiles of {rows} x {columns} at {bits} bits in groups of {group_size} are {expected} bytes "
                f"(uint8, one axis), not {stored.dtype} of shape {stored.shape}"
            )
        if not stored.flags.c_contiguous:
            raise BadInput("tiles must be C-contiguous; pass numpy.ascontiguousarray(stored)")
        return cls(rows, columns, stored, bits, group_size)

    @property
    def nbytes(self) -> int:
        """Stored size in bytes."""
        return int(self._stored.nbytes)

    @cached_property
    def unpacked(self) -> TiledMatrix:
        """The tiles as arrays, for the reference kernels."""
        return TiledMatrix.from_bytes(self._stored, self.rows, self.columns, self._bits, self._group_size)

    def floats(self) -> Floats:
        """The matrix in float32 (rows, columns)."""
        return self.unpacked.dequantize() if self.tiled else np.asarray(self._stored, np.float32)


class Linear:
    """Matrices that read the same input, x * inverse @ weights.T + bias, their outputs side by side.

    biases: float32 (outputs,) or None for each matrix. inverse: float32 (columns,), what each input channel is
    multiplied by first (1 / input_scale of SmoothQuant). int8: activations are quantised row by row and
    multiplied as integers (tiles only); otherwise weights are widened to float32.
    Raises BadInput where the parts do not fit together.
    """

    def __init__(
        self,
        matrices: Sequence[Matrix],
        biases: Sequence[Floats | None] | None = None,
        *,
        inverse: Floats | None = None,
        int8: bool = False,
    ) -> None:
        self.matrices = tuple(matrices)
        self.biases: tuple[Floats | None, ...] = (
            (None,) * len(self.matrices) if biases is None else tuple(biases)
        )
        self.inverse, self.int8 = inverse, int8
        if not self.matrices or len(self.biases) != len(self.matrices):
            raise BadInput(f"{len(self.matrices)} matrices, {len(self.biases)} biases; give a bias for each")
        self.columns = self.matrices[0].columns
        self.rows = sum(matrix.rows for matrix in self.matrices)
        for matrix, bias in zip(self.matrices, self.biases, strict=True):
            if matrix.columns != self.columns:
                raise BadInput(
                    f"matrices of {self.columns} and {matrix.columns} columns read different inputs"
                )
            if int8 and not matrix.tiled:
                raise BadInput("int8 activations need a matrix in tiles; this one is dense")
            if bias is not None:
                check("bias", bias, (matrix.rows,))
        if inverse is not None:
            check("inverse", inverse, (self.columns,))
        self.native: Any = None
        if core is not None:
            self.native = core.Linear.make([m.native for m in self.matrices], self.biases, inverse, int8)


def check(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raise BadInput unless an array is float32, C-contiguous and of this shape."""
    if array.dtype != np.float32 or array.shape != shape or not array.flags.c_contiguous:
        layout = "" if array.flags.c_contiguous else ", not C-contiguous"
        raise BadInput(
            f"{name} must be C-contiguous float32 of shape {shape}, not {array.dtype} {array.shape}{layout}"
        )
