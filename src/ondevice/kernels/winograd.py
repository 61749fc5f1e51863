"""Winograd's minimal filtering F(n, k): n outputs of a k-tap filter in n + k - 1 products, for any n and k.

Knows exact arithmetic on fractions. Knows nothing of tensors, layouts or which n is worth it.

Sources: Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray 2016; points 0, f, -f, 2f, -2f, ...
and infinity with f = 1/2 as MNN generates them (Jiang et al. 2020, section 3.3.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

MAX_POINTS = 10  # of a transform in float32; the compiled kernels have no more either
Rows = tuple[tuple[Fraction, ...], ...]


@cache
def transforms(outputs: int, taps: int) -> tuple[Rows, Rows, Rows]:
    """(A, G, B) with y = A [(G g) * (B d)]: outputs y (n,), filter g (k,), inputs d (n + k - 1,); A is (n, n + k - 1),
    G (n + k - 1, k), B (n + k - 1, n + k - 1). Exact.

    Raises BadInput for fewer than one output or tap.
    """
    count = outputs + taps - 1
    if outputs < 1 or taps < 1:
        raise BadInput(f"F({outputs}, {taps}) has no outputs or no taps")
    points = [Fraction((i + 1) // 2 * (1 if i % 2 else -1), 2) for i in range(count - 1)]
    zero, one = Fraction(0), Fraction(1)
    out = tuple((*(p**i for p in points), one if i == outputs - 1 else zero) for i in range(outputs))
    scales = [_product(p - q for j, q in enumerate(points) if j != i) for i, p in enumerate(points)]
    filters = tuple(tuple(p**i / scale for i in range(taps)) for p, scale in zip(points, scales, strict=True))
    filters = (*filters, (*(zero for _ in range(taps - 1)), one))
    inputs = tuple(_polynomial(points[:i] + points[i + 1 :], count) for i in range(count))
    return out, filters, inputs


def errors(outputs: int, taps: int) -> int:
    """How many coefficients of F(n, k), multiplied out, are not those of the filter; 0 where it is exact."""
    out, filters, inputs = transforms(outputs, taps)
    wrong = 0
    for i, j, source in product(range(outputs), range(taps), range(outputs + taps - 1)):
        total = sum(out[i][p] * filters[p][j] * inputs[p][source] for p in range(outputs + taps - 1))
        wrong += total != (source == i + j)
    return wrong


def transformed(weights: npt.NDArray[np.float32], outputs: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Filters (out, in, ky, kx) at the points of F(outputs[0], ky) x F(outputs[1], kx): (points, in, out).

    An axis with one output and one tap stays as it is. Computed in float64, rounded once. Raises BadInput for more than
    MAX_POINTS points along an axis: float32 would lose too many digits in their powers.
    """
    for n, k in zip(outputs, weights.shape[2:], strict=True):
        if n + k - 1 > MAX_POINTS:
            raise BadInput(
                f"F({n}, {k}) needs {n + k - 1} points; beyond {MAX_POINTS} their powers cancel in float32: take at "
                f"most {MAX_POINTS + 1 - k} outputs for {k} taps, or another scheme"
            )
    down, along = (
        np.array(transforms(n, k)[1], np.float64) for n, k in zip(outputs, weights.shape[2:], strict=True)
    )
    taps = weights.transpose(2, 3, 1, 0).reshape(weights.shape[2] * weights.shape[3], -1)
    points = np.kron(down, along) @ taps.astype(np.float64)
    return points.astype(np.float32).reshape(len(points), weights.shape[1], weights.shape[0])


def _product(values: Iterable[Fraction]) -> Fraction:
    result = Fraction(1)
    for value in values:
        result *= value
    return result


def _polynomial(roots: list[Fraction], width: int) -> tuple[Fraction, ...]:
    """Coefficients of the monic polynomial with these roots, lowest first, filled up to `width` with zeros."""
    result = [Fraction(1)]
    for root in roots:
        longer = [Fraction(0), *result]
        for i, value in enumerate(result):
            longer[i] -= root * value
        result = longer
    return (*result, *([Fraction(0)] * (width - len(result))))
