"""A decoder's tensors in another form: every matrix rounded to tiles, or tiles made float32 again.

Knows stored tensors and the tiled layout. Knows nothing of calibration: what is rounded here is rounded to nearest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ondevice.numerics.tiles import TiledMatrix, quantize_tiled
from ondevice.runtime.projection import Tensors
from ondevice.runtime.weights.random import RandomTensor as HeldTensor


def rounded(tensors: Tensors, bits: int, *, group_size: int = 32) -> dict[str, HeldTensor]:
    """Every dense matrix in tiles of so many bits, for int8 activations; vectors as they are."""
    made: dict[str, HeldTensor] = {}
    for name in tensors:
        values = np.asarray(tensors[name].to_dense(), np.float32)
        if values.ndim == 2:
            tiled = quantize_tiled(values, bits, group_size)
            format: dict[str, Any] = {
                "kind": "tiles", "rows": tiled.rows, "columns": tiled.columns, "bits": bits,
                "group_size": group_size, "activations": "int8",
            }  # fmt: skip
            made[name] = HeldTensor(format, tiled.to_bytes())
        else:
            made[name] = _dense(values)
    return made


def dequantized(tensors: Tensors) -> dict[str, HeldTensor]:
    """Every matrix in tiles as the float32 values that its codes stand for."""
    made: dict[str, HeldTensor] = {}
    for name in tensors:
        tensor = tensors[name]
        if tensor.format["kind"] == "tiles":
            sizes = (tensor.format[key] for key in ("rows", "columns", "bits", "group_size"))
            made[name] = _dense(TiledMatrix.from_bytes(tensor.array, *sizes).dequantize())
        else:
            made[name] = _dense(np.asarray(tensor.to_dense(), np.float32))
    return made


def _dense(values: np.ndarray[Any, np.dtype[np.float32]]) -> HeldTensor:
    return HeldTensor({"kind": "dense", "dtype": "float32", "shape": list(values.shape)}, values)
