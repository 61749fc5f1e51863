"""One weight matrix to tiles: rounded to nearest, or column after column, each making good for the last.

Knows a matrix and the second moment of its inputs. Knows nothing of layers or models.
"""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ondevice.errors import BadInput, NeedsCalibration
from ondevice.numerics.tiles import TiledMatrix, choose_scales, quantize_tiled

Floats = npt.NDArray[np.float32]
Method = Literal["gptq", "rtn"]
METHODS = ("gptq", "rtn")
_BLOCK = 64  # columns between two updates of all later columns: speed only
_DAMPING = 0.01  # of the mean diagonal, against few calibration tokens: Frantar et al. 2023, section 3.3
SWEEPS = 3  # of coordinate descent after GPTQ: the first lowers the error by about 5-10 %, later ones less


class Inputs:
    """The inputs of a layer as GPTQ needs them; worth keeping where one weight is quantised more than once.

    second: E[x x.T] (inputs, inputs), or the covariance where the bias takes up the mean.
    """

    def __init__(self, second: torch.Tensor) -> None:
        damped = second.detach().double().cpu()
        self.importance: Floats = damped.diagonal().clamp_min(0).float().numpy()
        damping = max(_DAMPING * float(damped.diagonal().mean()), 1e-12)
        # The steps do not depend on the order, so that columns can come in any: the largest inputs first.
        order = torch.argsort(damped.diagonal(), descending=True, stable=True)
        damped = damped[order][:, order] + damping * torch.eye(len(order), dtype=torch.float64)
        self.order: npt.NDArray[np.int64] = order.numpy()
        self._damped = damped
        self.second: Floats = damped.float().numpy()

    @cached_property
    def factor(self) -> Floats:
        """The upper U with inverse(second) = U.T U, the columns in `order`."""
        # second = R R.T with R upper by a Cholesky from the last column on; U = inverse(R)
        upper = torch.linalg.cholesky(self._damped.flip(0, 1)).flip(0, 1)
        identity = torch.eye(len(upper), dtype=torch.float64)
        factor: Floats = torch.linalg.solve_triangular(upper, identity, upper=True).float().numpy()
        return factor


def quantize_matrix(
    weight: torch.Tensor,
    bits: int,
    group_size: int = 32,
    inputs: Inputs | None = None,
    method: Method = "gptq",
    sweeps: int = SWEEPS,
) -> TiledMatrix:
    """The tiles that stand for a weight (outputs, inputs).

    inputs: what the columns are multiplied by; the error of the output is minimised. Without it "rtn"
        minimises that of the weights, and "gptq" raises NeedsCalibration.
    method: "rtn" rounds to nearest. "gptq": Frantar et al. 2023, algorithm 1, columns with the largest inputs
        first, or nearest where that is better, then sweeps of coordinate descent over the codes (Behdin et
        al. 2023, QuantEase), which only lower the error. Both search the scales by the importance of the columns.
    sweeps: of that descent; 0 takes a third of the time, for an estimate.
    """
    if method not in METHODS:
        raise BadInput(f"no method {method!r}; there are: {', '.join(METHODS)}")
    values = np.ascontiguousarray(weight.detach().float().cpu().numpy())
    importance = None if inputs is None else inputs.importance
    if method == "rtn":
        return quantize_tiled(values, bits, group_size, importance)
    if inputs is None:
        raise NeedsCalibration("gptq needs the inputs' second moment; calibrate, or use method=rtn")
    scales, multipliers = choose_scales(values, bits, group_size, importance)
    rows, columns = values.shape
    steps = np.repeat(scales[:, None] * multipliers, group_size, axis=1)[:, :columns]
    order = inputs.order
    grid = _Integers(np.ascontiguousarray(steps.T[order]), 1 << (bits - 1))
    # One column of the weight is one row here: contiguous, since the work goes column by column.
    by_column = np.ascontiguousarray(values.T[order])
    levels = better(by_column, gptq(by_column, grid, inputs.factor), grid, inputs.second)
    levels = descend(by_column, levels, grid, inputs.second, sweeps)
    codes = np.empty((columns, rows), np.uint8)
    codes[order] = levels + grid.middle
    return TiledMatrix(rows, columns, bits, group_size, np.ascontiguousarray(codes.T), multipliers, scales)


class Grid(Protocol):
    """The values that each weight may take: steps (columns, rows) times levels."""

    @property
    def steps(self) -> Floats: ...

    def nearest(self, column: int, values: Floats) -> Floats:
        """Levels (rows,) of one column that are nearest to these values."""


class _Integers:
    """The values that each weight may take: steps (columns, rows) times -middle .. middle - 1."""

    def __init__(self, steps: Floats, middle: int) -> None:
        self.steps, self.middle = steps, middle
        self._inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps != 0)

    def nearest(self, column: int, values: Floats) -> Floats:
        """Levels (rows,) of one column that are nearest to these values."""
        levels: Floats = np.rint(values * self._inverse[column])
        np.maximum(levels, -self.middle, out=levels)
        np.minimum(levels, self.middle - 1, out=levels)
        return levels


def gptq(weight: Floats, grid: Grid, upper: Floats) -> Floats:
    """Levels (columns, rows), column by column, the error of each passed on to those not yet rounded."""
    columns = len(weight)
    rest, levels = weight.copy(), np.empty_like(weight)
    for first in range(0, columns, _BLOCK):
        last = min(first + _BLOCK, columns)
        errors = np.empty((last - first, weight.shape[1]), np.float32)
        for k in range(first, last):
            levels[k] = grid.nearest(k, rest[k])
            errors[k - first] = (rest[k] - levels[k] * grid.steps[k]) / upper[k, k]
            rest[k + 1 : last] -= upper[k, k + 1 : last, None] * errors[k - first]
        rest[last:] -= upper[first:last, last:].T @ errors
    return levels


def better(weight: Floats, levels: Floats, grid: Grid, second: Floats) -> Floats:
    """The given levels, but for outputs where those nearest to the weight lose less."""
    nearest = np.stack([grid.nearest(k, values) for k, values in enumerate(weight)])
    losses = []
    for tried in (levels, nearest):
        difference = weight - tried * grid.steps
        losses.append(np.einsum("kr,kr->r", difference, second @ difference))
    better: Floats = np.where(losses[0] <= losses[1], levels, nearest)
    return better


def descend(weight: Floats, levels: Floats, grid: Grid, second: Floats, sweeps: int) -> Floats:
    """Levels of no larger error: each column in turn is set to its best levels with all others fixed."""
    levels = levels.copy()
    columns = len(weight)
    for _ in range(sweeps):
        gradient = second @ (weight - levels * grid.steps)
        for first in range(0, columns, _BLOCK):
            last = min(first + _BLOCK, columns)
            changes = np.empty((last - first, weight.shape[1]), np.float32)
            for k in range(first, last):
                best = grid.nearest(k, levels[k] * grid.steps[k] + gradient[k] / second[k, k])
                changes[k - first] = (best - levels[k]) * grid.steps[k]
                levels[k] = best
                gradient[k + 1 : last] -= second[k, k + 1 : last, None] * changes[k - first]
            gradient[last:] -= second[last:, first:last] @ changes
    return levels
