"""Nested quantisation: every width is nearly as good as a quantisation of its own, in about half of their bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matrix import Inputs, quantize_matrix
from ondevice.compress.quantize.matryoshka import Matryoshka, nest
from ondevice.compress.technique import parse
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.nested import NestedLinear
from ondevice.models.load import load


def _case(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(columns, columns, generator=generator, dtype=torch.float64) / columns**0.5
    return torch.randn(rows, columns, generator=generator), Inputs(x.T @ x / len(x))


@pytest.mark.parametrize(("widths", "most"), [((2, 3, 4), 2.2), ((5, 6, 7, 8), 3.2)])
def test_each_width_is_close_to_one_of_its_own_and_better_than_the_last(widths, most):
    weight, inputs = _case(32, 128)
    nested = nest(weight, widths, 32, inputs)
    second = inputs.second[np.argsort(inputs.order)][:, np.argsort(inputs.order)]
    last, single = np.inf, 0
    for width in widths:
        own = quantize_matrix(weight, width, 32, inputs)
        single += own.nbytes
        ours, theirs = (
            float(np.einsum("rk,kl,rl->", error, second, error))
            for error in (weight.numpy() - it for it in (nested.dequantize(width), own.dequantize()))
        )
        assert ours <= most**2 * theirs
        assert ours < 0.7 * last
        last = ours
    assert nested.nbytes <= 0.5 * single


def test_columns_that_groups_do_not_divide_are_padded():
    weight, inputs = _case(20, 100)
    nested = nest(weight, (2, 3), 64, inputs)
    assert nested.dequantize(3).shape == (20, 100)


def test_experts_become_nested_layers_and_the_layer_at_a_width_is_its_matrix(tiny_decoder):
    model = load(tiny_decoder("mixtral", num_local_experts=3, num_experts_per_tok=1))
    nested = parse("matryoshka:widths=2..4").apply(model, Calibration(["some words to calibrate with"] * 3))
    layers = nested.layers(NestedLinear)
    assert len(layers) == 2 * 3 * 3
    assert not nested.layers(nn.Linear, "*.experts.*")
    layer = next(iter(layers.values()))
    x = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    for width in (2, 3, 4):
        layer.width = width
        expected = x @ layer.weight.T
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0.03 * float(expected.abs().max()))


def test_bad_input(tiny_decoder):
    for widths in ("2+4", "4..2", "3", "1..3", "6..9", "few"):
        with pytest.raises(BadInput, match="widths"):
            Matryoshka(widths)
    with pytest.raises(BadInput, match="group_size"):
        Matryoshka("2..4", group_size=48)
    model = load(tiny_decoder("mixtral", num_local_experts=2, num_experts_per_tok=1))
    with pytest.raises(NeedsCalibration, match="calibration texts"):
        Matryoshka().apply(model)
    with pytest.raises(BadInput, match="text 0 is empty"):
        Matryoshka().apply(model, Calibration([""]))
    with pytest.raises(BadInput, match="no experts"):
        Matryoshka().apply(load(tiny_decoder("llama")), Calibration(["a text"]))
