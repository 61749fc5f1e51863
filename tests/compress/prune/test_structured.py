from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.prune.structured import Prune
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadInput, NeedsCalibration, UnsupportedModel
from ondevice.layers.store import from_stored, stored_bytes, to_stored
from ondevice.layers.structure import blocks
from ondevice.models.load import load
from ondevice.models.model import Model


def test_parts_are_really_gone(model, calibration, texts):
    small = Prune(heads=0.5, neurons=0.25, drop_layers=1).apply(model, calibration)
    (block,) = blocks(small.module)
    shapes = {
        name: tuple(small.module.get_submodule(getattr(block, name)).weight.shape)
        for name in ("query", "key", "value", "attended", "intermediate", "output")
    }
    assert {shapes[name] for name in ("query", "key", "value")} == {(16, 32)}
    assert (shapes["attended"], shapes["intermediate"], shapes["output"]) == ((32, 16), (48, 32), (32, 48))
    assert small.config["num_hidden_layers"] == 1
    assert small.config["intermediate_size"] == 48
    assert stored_bytes(small.module) < stored_bytes(model.module)
    assert small.predict(texts).shape == model.predict(texts).shape
    assert len(blocks(model.module)) == 2


@pytest.mark.parametrize("settings", [{"heads": 0.5}, {"neurons": 0.5}])
def test_solving_anew_beats_cutting_alone(model, calibration, texts, settings):
    before = model.predict(texts)
    small = Prune(**settings).apply(model, calibration)
    solved = {}
    for old, new in zip(blocks(model.module), blocks(small.module), strict=True):
        for name in (old.attended, old.output):
            layer, less = model.module.get_submodule(name), small.module.get_submodule(name)
            if layer.in_features == less.in_features:
                continue
            rows = new.value if name == old.attended else new.intermediate
            kept = _which(model.module.get_submodule(rows).weight, small.module.get_submodule(rows).weight)
            cut = nn.Linear(less.in_features, less.out_features)
            cut.weight, cut.bias = nn.Parameter(layer.weight[:, kept]), layer.bias
            solved[name] = cut
    assert solved
    plain = small.with_modules(solved)
    error, without = (float(np.square(each.predict(texts) - before).mean()) for each in (small, plain))
    assert error < 0.9 * without


def _which(rows: torch.Tensor, some: torch.Tensor) -> list[int]:
    return [int((rows == row).all(dim=1).nonzero()[0, 0]) for row in some]


def test_the_layer_that_goes_is_the_one_that_matters_least(model, calibration, texts):
    before = model.predict(texts)
    small = Prune(drop_layers=1).apply(model, calibration)
    layers = list(model.module.encoder.layer)
    errors = []
    for left in layers:
        one = model.with_modules({"encoder.layer": nn.ModuleList([left])})
        errors.append((float(np.square(one.predict(texts) - before).mean()), left))
    _, best = min(errors, key=lambda pair: pair[0])
    kept = small.module.encoder.layer[0]
    assert torch.equal(kept.output.dense.weight, best.output.dense.weight)


def test_a_pruned_model_is_stored_quantised_and_restored(model, calibration, texts):
    small = Quantize(8).apply(Prune(heads=0.25, neurons=0.4).apply(model, calibration), calibration)
    again = from_stored(model.with_modules({}).module, to_stored(small.module))
    restored = Model(again, small.tokenizer, small.task, small.config)
    np.testing.assert_array_equal(restored.predict(texts), small.predict(texts))


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_other_families(tiny_checkpoint, calibration, texts, family):
    small = Prune(heads=0.25, neurons=0.25, drop_layers=1).apply(load(tiny_checkpoint(family)), calibration)
    assert small.predict(texts).shape == (len(texts), 32)


def test_bad_input(model, calibration):
    with pytest.raises(NeedsCalibration, match="prune needs calibration"):
        Prune(heads=0.25).apply(model)
    with pytest.raises(BadInput, match="the model has 2 layers"):
        Prune(drop_layers=2).apply(model, calibration)
    with pytest.raises(BadInput, match="prune before other techniques"):
        Prune(heads=0.25).apply(Quantize(8, method="rtn", smooth=0).apply(model), calibration)
    other = Model(nn.Linear(3, 3), model.tokenizer, model.task)
    with pytest.raises(UnsupportedModel, match="BERT, RoBERTa and XLM-RoBERTa"):
        Prune(heads=0.25).apply(other, calibration)
