"""The kernels in NumPy: what the compiled ones are held to, and what runs where there is no compiler.

Knows arithmetic only; `ondevice.kernels.Kernels` has checked the arguments. Slow, and plain on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ondevice.kernels.matrix import Linear, Matrix

Floats = npt.NDArray[np.float32]


def quantize(x: Floats, inverse: Floats | None) -> tuple[npt.NDArray[np.int8], Floats]:
    """int8 values (rows, columns) in [-127, 127] and one scale a row, so that x * inverse ~ values * scale.

    Symmetric, dynamic, one scale a token, halves rounded to even. A row that holds NaN or infinity gets the
    scale NaN and zeros; one whose scale would be denormal gets zeros and the scale 0.
    """
    with np.errstate(all="ignore"):
        scaled = x if inverse is None else x * inverse
        scales = np.abs(scaled).max(axis=1, initial=0) / np.float32(127)
        usable = np.isfinite(scales) & (scales >= np.finfo(np.float32).tiny)
        factors = np.where(usable, np.float32(1) / scales, np.float32(0))
        values = np.clip(np.rint(scaled * factors[:, None]), -127, 127)
        values = np.where(usable[:, None], values, 0).astype(np.int8)
        return values, np.where(usable, scales, np.where(np.isfinite(scales), 0, np.nan)).astype(np.float32)


def linear(x: Floats, layer: Linear, activation: str, out: Floats) -> None:
    """out (rows, outputs of all matrices) = activation(x * inverse @ weights.T + bias)."""
    column = 0
    if layer.int8:
        values, scales = quantize(x, layer.inverse)
    for matrix, bias in zip(layer.matrices, layer.biases, strict=True):
        target = out[:, column : column + matrix.rows]
        if layer.int8:  # float64 holds every sum of up to 131072 such products exactly
            sums = values.astype(np.float64) @ matrix.unpacked.int8().T.astype(np.float64)
            target[:] = sums.astype(np.float32) * (scales[:, None] * matrix.unpacked.scales)
        else:
            target[:] = (x if layer.inverse is None else x * layer.inverse) @ matrix.floats().T
        if bias is not None:
            target += bias
        column += matrix.rows
    activate(out, activation)


def activate(x: Floats, kind: str) -> None:
    """Apply an activation in place."""
    if kind == "gelu":
        x *= 0.5 * (1 + _erf(x.astype(np.float64) / np.sqrt(2)))
    elif kind == "gelu_tanh":
        x *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    elif kind == "relu":
        np.maximum(x, 0, out=x)
    elif kind == "silu":
        x /= 1 + np.exp(np.clip(-x, -87, 87))
    elif kind == "tanh":
        np.tanh(x, out=x)


def layer_norm(
    x: Floats, residual: Floats | None, gamma: Floats, beta: Floats, epsilon: float, out: Floats
) -> None:
    """out = normalised (x + residual), row by row (Ba et al. 2016)."""
    total = x if residual is None else x + residual
    centred = total - total.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + np.float32(epsilon))
    out[:] = centred / deviation * gamma + beta


def attention(qkv: Floats, starts: npt.NDArray[np.int64], heads: int, scale: float, out: Floats) -> None:
    """Every token of a sequence attends to all of its sequence (Vaswani et al. 2017, eq. 1)."""
    for start, end in pairwise(starts):
        if start == end:
            continue
        queries, keys, values = qkv[start:end].reshape(end - start, 3, heads, -1).transpose(1, 2, 0, 3)
        scores = queries @ keys.transpose(0, 2, 1) * np.float32(scale)
        scores = np.exp(scores - scores.max(axis=2, keepdims=True))
        scores /= scores.sum(axis=2, keepdims=True)
        out[start:end] = (scores @ values).transpose(1, 0, 2).reshape(end - start, -1)


def embed(
    tables: Sequence[Matrix],
    rows: npt.NDArray[np.int32],
    gamma: Floats | None,
    beta: Floats | None,
    epsilon: float,
    out: Floats,
) -> None:
    """out[i] = sum over tables of table[rows[table, i]], normalised where gamma is given; row -1 adds none."""
    out[:] = 0
    for table, chosen in zip(tables, rows, strict=True):
        out[chosen >= 0] += table.floats()[chosen[chosen >= 0]]
    if gamma is not None and beta is not None:
        layer_norm(out, None, gamma, beta, epsilon, out)


def _erf(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    size = np.abs(x)
    t = 1 / (1 + 0.3275911 * size)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.asarray(np.sign(x) * (1 - series * np.exp(-size * size)))
