from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.numerics.tiles import quantize_tiled


def _layer(rows, columns, bits, activations, seed=0, scaled=True):
    rng = np.random.default_rng(seed)
    matrix = quantize_tiled(rng.standard_normal((rows, columns)).astype(np.float32), bits)
    bias = torch.from_numpy(rng.standard_normal(rows).astype(np.float32))
    scale = torch.from_numpy(rng.uniform(0.3, 3, columns).astype(np.float32)) if scaled else None
    return QuantizedLinear(matrix, bias, scale, activations)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 8), st.integers(1, 9), st.booleans())
def test_int8_activations_are_what_integer_arithmetic_gives(rows, columns, bits, tokens, scaled):
    layer = _layer(rows, columns, bits, "int8", seed=rows * columns, scaled=scaled)
    x = np.random.default_rng(tokens).standard_normal((tokens, columns)).astype(np.float32) * 5
    x[0] = 0
    scaled_x = x * (np.float32(1) / layer.input_scale.numpy()) if scaled else x
    step = np.abs(scaled_x).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    a = np.clip(np.rint(scaled_x * inverse), -127, 127).astype(np.int64)
    products = a @ layer.matrix.int8().astype(np.int64).T
    expected = products.astype(np.float32) * (step * layer.scales.numpy()) + layer.bias.numpy()
    np.testing.assert_array_equal(layer(torch.from_numpy(x)).numpy(), expected)


def test_the_largest_integers_do_not_saturate():
    layer = _layer(5, 3000, 8, "int8", scaled=False)
    layer.integers.copy_(torch.tensor([127.0, -128, 127, -128, 1])[:, None].expand(5, 3000))
    x = torch.ones(2, 3000)
    x[1, ::2] = -1
    expected = np.float32(layer.integers.numpy().astype(np.int64) @ (127 * x.numpy().T.astype(np.int64))).T
    expected = expected * (np.float32(1) / np.float32(127) * layer.scales.numpy()) + layer.bias.numpy()
    np.testing.assert_array_equal(layer(x).numpy(), expected)


def test_float_activations_multiply_by_the_dequantised_weight():
    layer = _layer(20, 50, 4, "float")
    x = torch.randn(3, 7, 50)
    weight = torch.from_numpy(layer.matrix.dequantize()) / layer.input_scale
    torch.testing.assert_close(layer(x), functional.linear(x, weight, layer.bias), rtol=0, atol=0)
    torch.testing.assert_close(layer.weight, weight, rtol=0, atol=0)


def test_int8_approximates_float():
    x = torch.randn(100, 64)
    exact, rounded = _layer(32, 64, 6, "float")(x), _layer(32, 64, 6, "int8")(x)
    assert float((exact - rounded).norm() / exact.norm()) < 0.02


def test_a_row_does_not_depend_on_its_batch():
    layer, x = _layer(33, 96, 5, "int8"), torch.randn(17, 96)
    alone = torch.cat([layer(row[None]) for row in x])
    assert torch.equal(layer(x), alone)


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_what_is_stored_is_restored_bit_for_bit(activations):
    layer, x = _layer(20, 50, 3, activations), torch.randn(4, 50)
    stored = layer.stored()
    again = QuantizedLinear.from_stored(stored)
    assert torch.equal(layer(x), again(x))
    assert again.activations == activations
    assert layer.stored_bytes() == sum(tensor.array.nbytes for tensor in stored.values())
    assert stored["weight"].array.nbytes == layer.matrix.nbytes


def test_made_in_inference_mode_it_still_passes_gradients():
    with torch.inference_mode():
        layer = _layer(8, 32, 4, "float")
    x = torch.randn(2, 32, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], layer.weight.sum(dim=0))


def test_embedding_looks_up_dequantised_rows():
    matrix = quantize_tiled(np.random.default_rng(0).standard_normal((40, 33)).astype(np.float32), 4)
    table = QuantizedEmbedding(matrix, padding_idx=0)
    ids = torch.tensor([[3, 0], [39, 3]])
    np.testing.assert_array_equal(table(ids).numpy(), matrix.dequantize()[ids.numpy()])
    few = table.rows(np.array([39, 3]))
    assert torch.equal(few(torch.tensor([0, 1])), table(torch.tensor([39, 3])))
    assert torch.equal(QuantizedEmbedding.from_stored(table.stored())(ids), table(ids))


def test_bad_input():
    matrix = quantize_tiled(np.ones((4, 32), np.float32), 4)
    with pytest.raises(BadInput, match=r"bias of shape \(5,\), expected \(4,\)"):
        QuantizedLinear(matrix, torch.zeros(5))
    with pytest.raises(BadInput, match="input_scale"):
        QuantizedLinear(matrix, None, torch.ones(4))
    stored = QuantizedLinear(matrix).stored()["weight"]
    with pytest.raises(BadArtifact, match="cannot be read"):
        QuantizedLinear.from_stored({"weight": StoredTensor(stored.format, stored.array[:-1])})
    with pytest.raises(BadArtifact, match="int8 and float"):
        QuantizedLinear.from_stored(
            {"weight": StoredTensor(stored.format | {"activations": "fp8"}, stored.array)}
        )
