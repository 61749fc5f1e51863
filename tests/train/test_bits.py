"""Bit routers learn which tokens need bits, all else as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matryoshka import Matryoshka
from ondevice.errors import BadInput
from ondevice.layers.nested import BitScores
from ondevice.models.load import load
from ondevice.train.bits import teach_bits


@pytest.fixture(scope="module")
def models(tiny_decoder):
    original = load(tiny_decoder("mixtral", num_local_experts=4, num_experts_per_tok=2))
    return original, Matryoshka("2..4").apply(original, Calibration(["some words to calibrate with"]))


IDS = np.random.default_rng(0).integers(3, 300, 2000)


def _shares(router):
    x = torch.randn(400, 64, generator=torch.Generator().manual_seed(1))
    width = (x @ router.weight.T).reshape(400, 4, 3).argmax(-1)
    return torch.bincount(width.flatten(), minlength=3) / width.numel()


def test_a_price_on_bits_lowers_them_and_nothing_else_changes(models):
    original, nested = models
    settings = {"steps": 12, "batch": 2, "context": 32, "capacity": (1 / 3, 1 / 3, 1 / 3), "seed": 3}
    dear = teach_bits(nested, original.module, IDS, alpha=5.0, **settings)
    again = teach_bits(nested, original.module, IDS, alpha=5.0, **settings)
    free = teach_bits(nested, original.module, IDS, alpha=0.0, **settings)
    name = "model.layers.1.mlp.bit_router"
    router = dear.module.get_submodule(name)
    assert isinstance(router, BitScores)
    assert torch.equal(router.weight, again.module.get_submodule(name).weight)
    bits = [float(_shares(it.module.get_submodule(name)) @ torch.arange(3.0)) for it in (dear, free)]
    assert bits[0] < bits[1] - 0.1
    before, after = nested.module.state_dict(), dear.module.state_dict()
    assert set(after) - set(before) == {f"model.layers.{n}.mlp.bit_router.weight" for n in range(2)}
    assert all(torch.equal(after[key], values) for key, values in before.items())


def test_bad_input(models):
    original, nested = models
    with pytest.raises(BadInput, match="matryoshka first"):
        teach_bits(original, original.module, IDS)
    with pytest.raises(BadInput, match="capacities of 3 widths"):
        teach_bits(nested, original.module, IDS, capacity=(0.5, 0.5))
    with pytest.raises(BadInput, match="give more text"):
        teach_bits(nested, original.module, IDS[:10])
