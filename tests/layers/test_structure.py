from __future__ import annotations

import pytest
from torch import nn

from ondevice.errors import UnsupportedModel
from ondevice.layers.structure import blocks
from ondevice.models.load import load


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_finds_every_layer_of_every_family(tiny_checkpoint, family, head):
    module = load(tiny_checkpoint(family, head)).module
    found = blocks(module)
    assert len(found) == 2
    for block in found:
        assert block.head_size == 8
        shapes = {
            name: tuple(module.get_submodule(getattr(block, name)).weight.shape)
            for name in ("query", "key", "value", "attended", "intermediate", "output")
        }
        assert shapes.pop("intermediate") == (64, 32)
        assert shapes.pop("output") == (32, 64)
        assert set(shapes.values()) == {(32, 32)}


def test_other_architectures_are_refused_by_name():
    with pytest.raises(UnsupportedModel, match=r"Sequential has no structure.*BERT, RoBERTa"):
        blocks(nn.Sequential(nn.Linear(3, 3)))
