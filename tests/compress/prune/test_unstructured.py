from __future__ import annotations

import pytest
import torch
from torch import nn

from ondevice.compress.prune.unstructured import Sparsify
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.sparse import SparseLinear
from ondevice.layers.store import stored_bytes


def test_magnitude_keeps_the_largest_of_each_output(model):
    small = Sparsify(0.75, "magnitude").apply(model)
    for name, layer in model.layers(nn.Linear).items():
        kept = small.module.get_submodule(name).weight
        count = layer.in_features - int(0.75 * layer.in_features)
        least = layer.weight.abs().topk(count, dim=1).values[:, -1:]
        expected = torch.where(layer.weight.abs() >= least, layer.weight, 0).half().float()
        assert torch.equal(kept, expected)


def test_wanda_weighs_by_the_inputs(model, calibration):
    name = "encoder.layer.0.output.dense"
    layer = model.module.get_submodule(name)
    kept = Sparsify(0.5, "wanda").apply(model, calibration).module.get_submodule(name).weight != 0
    norms = calibration.moments(model)[name].second.diagonal().sqrt()
    scores = layer.weight.abs().double() * norms
    assert bool(
        (scores.masked_fill(~kept, torch.inf).amin(dim=1) >= scores.masked_fill(kept, 0).amax(dim=1)).all()
    )
    assert int(kept.sum()) == kept.numel() // 2


def test_takes_what_it_says(model):
    half, tenth = (Sparsify(share, "magnitude").apply(model) for share in (0.5, 0.9))
    assert stored_bytes(tenth.module) < stored_bytes(half.module) < stored_bytes(model.module)


def test_works_on_any_module(model):
    from ondevice.models.model import Model

    net = Model(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), model.tokenizer, model.task)
    small = Sparsify(0.5, "magnitude", layers="0").apply(net)
    assert set(small.layers(SparseLinear)) == {"0"}


def test_weights_too_large_for_float16_are_kept_whole(model):
    from ondevice.models.model import Model

    layer = nn.Linear(4, 1)
    layer.weight.data = torch.tensor([[1e6, 1.0, 2.0, 3.0]])
    net = Model(nn.Sequential(layer), model.tokenizer, model.task)
    assert float(Sparsify(0.5, "magnitude").apply(net).module[0].weight[0, 0]) == 1e6


def test_bad_input(model):
    with pytest.raises(NeedsCalibration, match="method=magnitude does without"):
        Sparsify().apply(model)
    with pytest.raises(BadInput, match="0 up to 1"):
        Sparsify(1.0)
    with pytest.raises(BadInput, match="wanda, magnitude"):
        Sparsify(0.5, "random")
