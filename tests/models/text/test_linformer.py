from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from ondevice.errors import BadInput
from ondevice.models.text.linformer import LinformerSelfAttention


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def _replace(bert, projected, max_length):
    attention = bert.encoder.layer[0].attention
    attention.self = (
        LinformerSelfAttention(attention.self, projected, max_length).eval().requires_grad_(False)
    )
    return attention.self


def test_with_the_identity_it_is_plain_attention(bert):
    ids = torch.randint(0, 50, (3, 12))
    expected = bert(input_ids=ids).last_hidden_state
    linformer = _replace(bert, 12, 12)
    linformer.projection.weight.copy_(torch.eye(12))
    torch.testing.assert_close(bert(input_ids=ids).last_hidden_state, expected)


def test_attention_is_over_mixtures_of_keys_and_values(bert):
    linformer = _replace(bert, 3, 20)
    x = torch.randn(2, 10, 32)
    mixing = linformer.projection.weight[:, :10]
    query, key, value = (getattr(linformer, name)(x) for name in ("query", "key", "value"))
    heads = []
    for start in range(0, 32, 8):
        part = slice(start, start + 8)
        scores = query[..., part] @ (mixing @ key[..., part]).transpose(1, 2) / 8**0.5
        heads.append(scores.softmax(dim=-1) @ (mixing @ value[..., part]))
    torch.testing.assert_close(linformer(x)[0], torch.cat(heads, dim=-1))


def test_padding_changes_nothing(bert):
    _replace(bert, 4, 16)
    ids, mask = torch.randint(0, 50, (1, 9)), torch.ones(1, 9, dtype=torch.long)
    alone = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    more = torch.cat([ids, torch.randint(0, 50, (1, 5))], dim=1)
    padded = bert(input_ids=more, attention_mask=torch.tensor([[1] * 9 + [0] * 5])).last_hidden_state
    torch.testing.assert_close(padded[:, :9], alone)


def test_bad_input(bert):
    linformer = _replace(bert, 4, 16)
    with pytest.raises(BadInput, match="17 tokens, but the projection was made for 16"):
        linformer(torch.randn(1, 17, 32))
    with pytest.raises(BadInput, match="1 to max_length = 8"):
        LinformerSelfAttention(bert.encoder.layer[0].attention.self, 9, 8)
