from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadInput
from ondevice.layers.banded import BandedEmbedding
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.store import from_stored, stored_bytes, to_stored
from ondevice.layers.tied import TiedLinear, tie, tied_heads
from ondevice.models.load import load, skeleton
from ondevice.numerics.tiles import quantize_tiled


def network(table):
    return tie(nn.ModuleDict({"table": table, "head": TiedLinear("table")}))


def quantized(rows=40, columns=24, bits=4):
    weight = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    return QuantizedEmbedding(quantize_tiled(weight, bits))


def test_the_head_multiplies_by_the_table():
    table, x = nn.Embedding(40, 24), torch.randn(2, 5, 24)
    torch.testing.assert_close(network(table)["head"](x), x @ table.weight.T)
    packed = quantized()
    same = QuantizedLinear(packed.matrix)  # the oracle, bit for bit
    torch.testing.assert_close(network(packed)["head"](x), same(x), rtol=0, atol=0)
    exact = QuantizedEmbedding(packed.matrix, activations="float")
    torch.testing.assert_close(network(exact)["head"](x), x @ packed.weight.T)


def test_a_table_in_bands_gives_no_logits():
    bands = BandedEmbedding(torch.zeros(40, dtype=torch.uint8), [quantized()])
    with pytest.raises(BadInput, match="one matrix"):
        network(bands)["head"](torch.randn(1, 24))


def test_the_head_follows_when_a_technique_replaces_the_table(tiny_decoder):
    model = load(tiny_decoder("llama", tie_word_embeddings=True))
    ids = torch.arange(2, 40)[None]
    before = model.outputs(ids, torch.ones_like(ids))
    smaller = Quantize(bits=2, method="rtn", smooth=0, layers="*embed_tokens").apply(model)
    assert tied_heads(smaller.module) == {"model.embed_tokens": "lm_head"}
    table = smaller.module.get_submodule("model.embed_tokens")
    hidden = smaller.module.model(input_ids=ids).last_hidden_state
    expected = QuantizedLinear(table.matrix)(hidden)
    torch.testing.assert_close(smaller.module(input_ids=ids).logits, expected, rtol=0, atol=0)
    torch.testing.assert_close(model.outputs(ids, torch.ones_like(ids)), before, rtol=0, atol=0)


def test_the_shared_weight_is_stored_once_and_read_back(tiny_decoder):
    model = load(tiny_decoder("llama", tie_word_embeddings=True))
    smaller = Quantize(bits=4).apply(model, Calibration(["the quick brown fox", "jumps over"]))
    stored = to_stored(smaller.module)
    assert not any(name.startswith("lm_head") for name in stored)
    assert stored_bytes(smaller.module) < stored_bytes(model.module) / 4
    again = from_stored(skeleton(model.config, model.task), stored)
    ids = torch.arange(2, 40)[None]
    torch.testing.assert_close(
        again(input_ids=ids).logits, smaller.module(input_ids=ids).logits, rtol=0, atol=0
    )
