from __future__ import annotations

import torch
from transformers import BertConfig, BertModel

from ondevice.models.random import BERT_BASE, random_weights
from ondevice.models.tasks import Task


def test_it_has_the_published_shape() -> None:
    with torch.device("meta"):
        published = BertModel(BertConfig(), add_pooling_layer=False)
    mine = random_weights(BERT_BASE).module.state_dict()
    assert {name: value.shape for name, value in mine.items()} == {
        name: value.shape for name, value in published.state_dict().items()
    }


def test_a_seed_decides_and_outputs_are_finite() -> None:
    small = BERT_BASE | {"num_hidden_layers": 1, "vocab_size": 50}
    one, same, other = (random_weights(small, seed=seed).module for seed in (0, 0, 1))
    ids = torch.arange(8)[None]
    assert torch.equal(one(input_ids=ids).last_hidden_state, same(input_ids=ids).last_hidden_state)
    assert not torch.equal(one(input_ids=ids).last_hidden_state, other(input_ids=ids).last_hidden_state)
    logits = random_weights(small | {"num_labels": 3}, Task("classification")).module(input_ids=ids).logits
    assert logits.shape == (1, 3)
    assert logits.isfinite().all()
