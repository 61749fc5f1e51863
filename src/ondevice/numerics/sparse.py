"""Sparse matrices: one bit an entry, and the entries that are not zero.

Knows NumPy. Knows nothing of layers or of how entries were chosen.

The bytes: the mask, row by row, one bit an entry, lowest bit first, padded with zeros to a multiple of 4
bytes; then the values that are not zero in the same order, little-endian float16 or float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Bytes = npt.NDArray[np.uint8]
DTYPES = ("float16", "float32")


def pack(matrix: npt.NDArray[Any], dtype: str = "float16") -> Bytes:
    """The stored form of a matrix (rows, columns), uint8 (bytes,).

    Raises BadInput for NaN, infinity, or a value beyond the range of `dtype`.
    """
    _check(dtype)
    mask = matrix != 0
    with np.errstate(over="ignore"):
        values = matrix[mask].astype(np.dtype(dtype).newbyteorder("<"))
    if not np.isfinite(values).all():
        raise BadInput(f"the matrix holds NaN, infinity or values too large for {dtype}")
    bits = np.packbits(mask.ravel(), bitorder="little")
    return np.concatenate([bits, np.zeros(-len(bits) % 4, np.uint8), values.view(np.uint8)])


def unpack(stored: Bytes, rows: int, columns: int, dtype: str = "float16") -> npt.NDArray[np.float32]:
    """The matrix (rows, columns) of a stored form. Raises BadInput where bytes and shape disagree."""
    check(stored, rows, columns, dtype)
    start = _values_at(rows * columns)
    mask = np.unpackbits(stored[:start], count=rows * columns, bitorder="little").astype(bool)
    matrix = np.zeros(rows * columns, np.float32)
    matrix[mask] = np.ascontiguousarray(stored[start:]).view(np.dtype(dtype).newbyteorder("<"))
    return matrix.reshape(rows, columns)


def check(stored: Bytes, rows: int, columns: int, dtype: str = "float16") -> None:
    """Raise BadInput unless these bytes are a sparse matrix of this shape."""
    _check(dtype)
    start = _values_at(rows * columns)
    if rows < 1 or columns < 1 or stored.size < start:
        raise BadInput(f"{stored.size} bytes are no sparse matrix of {rows} x {columns}")
    mask = np.unpackbits(stored[:start], bitorder="little")
    expected = int(mask.sum()) * np.dtype(dtype).itemsize
    if mask[rows * columns :].any() or stored.size - start != expected:
        raise BadInput(
            f"a sparse matrix has {stored.size - start} bytes of values; its mask needs {expected}"
        )


def _values_at(entries: int) -> int:
    return -(-entries // 32) * 4


def _check(dtype: str) -> None:
    if dtype not in DTYPES:
        raise BadInput(f"sparse values are {' or '.join(DTYPES)}, not {dtype!r}")
