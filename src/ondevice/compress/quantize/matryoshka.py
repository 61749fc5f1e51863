"""Nested quantisation: a weight at a few bits, and planes of signs that each make it a bit finer.

Knows a matrix and the second moment of its inputs, and linear layers. Knows nothing of who chooses a width when the
model runs.

Source: the D2MoE paper, Matryoshka weight quantisation: the base minimises the error of the output, and each plane
does with all before it fixed. Signs follow GPTQ (Frantar et al. 2023) and then coordinate descent, scales are the least
squares for given signs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matrix import Floats, Inputs, better, descend, gptq, quantize_matrix
from ondevice.compress.quantize.quantize import layer_inputs
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.nested import NestedLinear
from ondevice.models.model import Model
from ondevice.numerics.nested import LARGEST, NestedMatrix, SignPlane, check_widths, shift_of
from ondevice.numerics.tiles import check_format
from ondevice.train.bits import teach_bits

_ROUNDS = 3  # of signs for given scales and scales for given signs: the first two lower the error by a tenth


@dataclass(frozen=True)
class Matryoshka(Technique):
    """Store linear layers without a bias so that every width from the lowest is a prefix of the next.

    widths: consecutive, as in "2..4". group_size: inputs that share a scale, a multiple of 32; columns that it does not
    divide are padded with zeros. layers: a shell pattern of layer names; the runtime reads nested experts.

    teach: steps for which routers learn how many bits a token needs of each expert (`train.bits`), on the calibration
    texts; 100 do for a small model. 0: every token runs at all bits.

    Inputs that calibration never saw (an expert that no text was sent to) leave their weights rounded as they are.
    """

    widths: str = "2..4"
    group_size: int = 32
    layers: str = "*.experts.*"
    teach: int = 0

    def __post_init__(self) -> None:
        check_widths(self.bits)
        check_format(1, 1, self.bits[0], self.group_size)
        if self.teach < 0:
            raise BadInput(f"teach is a number of steps, not {self.teach}")

    @property
    def bits(self) -> tuple[int, ...]:
        """The widths as numbers."""
        found = re.fullmatch(r"(\d+)\.\.(\d+)", self.widths.strip())
        if found:
            return tuple(range(int(found[1]), int(found[2]) + 1))
        try:
            return tuple(int(part) for part in self.widths.split("+"))
        except ValueError:
            raise BadInput(f"widths are written as 2..4, not {self.widths!r}") from None

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        if calibration is None:
            raise NeedsCalibration(
                "matryoshka needs calibration texts; give some with --data or Calibration(texts)"
            )
        if not model.layers(nn.Linear, self.layers):
            raise BadInput(
                f"no linear layer is called {self.layers}: this model has no experts; for another kind of model use "
                "quantize, or give layers="
            )
        moments = calibration.moments(model)
        prepared: dict[int, Inputs] = {}  # gate and up share their moments

        def nested(name: str, layer: nn.Linear) -> nn.Module | None:
            if layer.bias is not None:
                raise BadInput(f"{name} has a bias, and nested layers have none; leave it out with layers=")
            seen = moments.get(name)
            if seen is None or seen.count == 0:
                inputs = Inputs(torch.eye(layer.in_features, dtype=torch.float64))
            elif id(seen) in prepared:
                inputs = prepared[id(seen)]
            else:
                inputs = prepared[id(seen)] = layer_inputs(layer, seen)
            return NestedLinear(nest(layer.weight, self.bits, self.group_size, inputs))

        result = model.replace(nn.Linear, self.layers, by=nested)
        if not self.teach:
            return result
        ids = [token for window in model.windows(calibration.texts) for token in window.ids]
        return teach_bits(result, model.module, np.array(ids, np.int64), steps=self.teach)


def nest(weight: torch.Tensor, widths: tuple[int, ...], group_size: int, inputs: Inputs) -> NestedMatrix:
    """The nested matrix that stands for a weight (outputs, inputs)."""
    check_widths(widths)
    base = quantize_matrix(weight, widths[0], group_size, inputs)
    values = np.ascontiguousarray(weight.detach().float().cpu().numpy())
    rest = values - base.dequantize()
    unit = base.scales / np.float32(1 << shift_of(base.bits))
    planes = []
    for _ in widths[1:]:
        plane = _plane(rest, unit, group_size, inputs)
        rest -= plane.integers(group_size) * unit[:, None]
        planes.append(plane)
    return NestedMatrix(base, tuple(planes))


class _Signs:
    """A grid of minus and plus a step: steps (columns, rows), of a half each, times -1 or 1."""

    def __init__(self, steps: Floats) -> None:
        self.steps = steps

    def nearest(self, column: int, values: Floats) -> Floats:
        return np.where(values < 0, np.float32(-1), np.float32(1))


def _plane(rest: Floats, unit: Floats, group_size: int, inputs: Inputs) -> SignPlane:
    """Signs and multipliers for what is left of a weight (rows, columns). unit: of each row's multipliers."""
    rows, columns = rest.shape
    groups = -(-columns // group_size)
    starts = np.arange(0, columns, group_size)
    weights = np.maximum(inputs.importance, 1e-12 * max(float(inputs.importance.max()), 1e-30))
    spread = np.add.reduceat(np.abs(rest) * weights, starts, axis=1) / np.add.reduceat(weights, starts)
    per_unit = np.divide(1, unit, out=np.zeros_like(unit), where=unit > 0)[:, None]
    multipliers = np.clip(np.rint(spread * per_unit), 0, LARGEST).astype(np.float32)
    order = inputs.order
    by_column = np.ascontiguousarray(rest.T[order])
    group_of = (order // group_size).astype(np.int64)
    signs = np.ones_like(by_column)
    for round_ in range(_ROUNDS):
        grid = _Signs(np.ascontiguousarray((multipliers * unit[:, None]).T[group_of]))
        if round_ == 0:
            signs = better(by_column, gptq(by_column, grid, inputs.factor), grid, inputs.second)
        signs = descend(by_column, signs, grid, inputs.second, 1)
        multipliers = _scales(by_column, signs, multipliers, unit, group_of, inputs.second)
    codes = np.empty((columns, rows), np.uint8)
    codes[order] = signs > 0
    assert multipliers.shape == (rows, groups)
    return SignPlane(np.ascontiguousarray(codes.T), multipliers.astype(np.int8))


def _scales(
    rest: Floats, signs: Floats, multipliers: Floats, unit: Floats, group_of: np.ndarray, second: Floats
) -> Floats:
    """Multipliers (rows, groups) of least error for given signs, one group after another with the others fixed."""
    found = multipliers.copy()
    left = rest - signs * (found * unit[:, None]).T[group_of]
    for _ in range(2):
        for group in range(found.shape[1]):
            columns = np.flatnonzero(group_of == group)
            chosen = signs[columns]  # (columns of the group, rows)
            slope = np.einsum("kr,kr->r", chosen, second[columns] @ left) * unit
            curve = np.einsum("kr,kr->r", chosen, second[np.ix_(columns, columns)] @ chosen) * unit**2
            step = np.divide(slope, curve, out=np.zeros_like(slope), where=curve > 0)
            new = np.clip(np.rint(found[:, group] + step), 0, LARGEST)
            left[columns] -= chosen * ((new - found[:, group]) * unit)
            found[:, group] = new
    return found
