from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact
from ondevice.layers.sparse import SparseLinear


@pytest.fixture
def layer():
    weight = torch.randn(10, 37, generator=torch.Generator().manual_seed(0))
    return SparseLinear(weight * (weight.abs() > 1), torch.arange(10.0))


def test_multiplies_by_the_rounded_weight(layer):
    x = torch.randn(5, 37)
    assert torch.equal(layer(x), functional.linear(x, layer.weight.half().float(), layer.bias))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_stored_is_restored_bit_for_bit(layer, dtype):
    layer = SparseLinear(layer.weight * 1.0001, layer.bias, dtype)
    again = SparseLinear.from_stored(layer.stored())
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.bias, layer.bias)
    assert again.dtype == dtype


def test_stored_bytes_are_mask_values_and_bias(layer):
    surviving = int((layer.weight != 0).sum())
    assert layer.stored_bytes() == 48 + 2 * surviving + 40  # 370 bits fill 47 bytes, padded to 48


def test_bytes_that_do_not_fit_are_refused(layer):
    stored = layer.stored()["weight"]
    with pytest.raises(BadArtifact, match="bytes of values"):
        SparseLinear.from_stored({"weight": StoredTensor(stored.format, stored.array[:-2])})
