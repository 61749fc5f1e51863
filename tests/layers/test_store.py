from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact
from ondevice.layers.factorized import LowRankLinear
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.sparse import SparseLinear
from ondevice.layers.store import from_stored, stored_bytes, to_stored
from ondevice.numerics.tiles import quantize_tiled


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 32)
        self.positions = nn.Embedding(9, 32)
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 3, bias=False)
        self.register_buffer("offset", torch.ones(32))
        self.register_buffer("scratch", torch.ones(32), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.positions(torch.arange(ids.shape[1])) + self.offset
        return self.head(self.norm(self.layers(x)))


def _tiles(layer: nn.Module, bits: int = 4):
    return quantize_tiled(layer.weight.detach().numpy(), bits)


@pytest.fixture
def compressed():
    torch.manual_seed(0)
    net = Net().eval()
    net.table = QuantizedEmbedding(_tiles(net.table))
    half = nn.Linear(32, 5, bias=False)
    net.layers[0] = QuantizedLinear(_tiles(net.layers[0]), net.layers[0].bias, torch.rand(32) + 0.5)
    net.layers[1] = LowRankLinear(half, nn.Linear(5, 32))
    net.layers[2] = LowRankLinear(QuantizedLinear(_tiles(half)), QuantizedLinear(_tiles(nn.Linear(5, 32))))
    net.layers[3] = SparseLinear(net.layers[3].weight * (net.layers[3].weight > 0), net.layers[3].bias)
    return net


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tree_of_every_layer_comes_back_bit_for_bit(compressed, device):
    stored = to_stored(compressed)
    with torch.device(device):
        skeleton = Net().eval()
    again = from_stored(skeleton, stored)
    ids = torch.tensor([[1, 7, 39]])
    assert torch.equal(again(ids), compressed(ids))
    second = to_stored(again)
    assert second.keys() == stored.keys()
    for name in stored:
        assert second[name].format == stored[name].format
        np.testing.assert_array_equal(second[name].array, stored[name].array)
    assert stored_bytes(again) == sum(tensor.nbytes for tensor in stored.values())


def test_names_are_those_that_artifacts_use(compressed):
    names = set(to_stored(compressed))
    assert {"layers.0.weight", "layers.0.bias", "layers.0.input_scale", "table.weight", "offset"} <= names
    assert {"layers.1.down.weight", "layers.1.up.weight", "layers.1.up.bias"} <= names
    assert "scratch" not in names
    assert "layers.2.down.bias" not in names


def test_shapes_are_the_truth():
    small = Net().eval()
    small.table, small.layers[0], small.layers[1] = nn.Embedding(7, 32), nn.Linear(32, 10), nn.Linear(10, 32)
    again = from_stored(Net().eval(), to_stored(small))
    assert (again.table.num_embeddings, again.layers[0].out_features, again.layers[1].in_features) == (
        7,
        10,
        10,
    )
    ids = torch.tensor([[1, 6]])
    assert torch.equal(again(ids), small(ids))


@pytest.mark.parametrize("missing", ["norm.weight", "layers.1.up.weight", "layers.3.weight", "offset"])
def test_missing_tensors_are_named(compressed, missing):
    stored = to_stored(compressed)
    del stored[missing]
    with pytest.raises(BadArtifact, match=missing.replace(".", r"\.")):
        from_stored(Net(), stored)


def test_tensors_without_a_place_are_named(compressed):
    stored = to_stored(compressed)
    extra = StoredTensor.dense(np.zeros(3, np.float32))
    with pytest.raises(BadArtifact, match="pooler"):
        from_stored(Net(), stored | {"pooler.weight": extra})
    with pytest.raises(BadArtifact, match=r"norm\.gain"):
        from_stored(Net(), stored | {"norm.gain": extra})
    with pytest.raises(BadArtifact, match="2 axes"):
        from_stored(Net(), stored | {"head.weight": extra})
    with pytest.raises(BadArtifact, match="LayerNorm"):
        from_stored(Net(), stored | {"norm.weight": stored["layers.0.weight"]})
