"""A small transformer that reads a picture row by row and names its class.

Knows transformers' BERT, which it feeds with rows instead of words. Knows nothing of data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ondevice.models.model import Model
from ondevice.models.tasks import Task


class RowReader(nn.Module):
    """Class logits (n, classes) of pictures (n, rows, columns): each row is a token."""

    def __init__(self, config: Any, columns: int) -> None:
        from transformers import BertForSequenceClassification

        super().__init__()
        self.rows = nn.Linear(columns, config.hidden_size)
        self.encoder = BertForSequenceClassification(config)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.encoder(inputs_embeds=self.rows(pictures)).logits
        return logits


def row_reader(
    rows: int, columns: int, classes: int, *, hidden: int = 64, layers: int = 2, seed: int = 0
) -> Model:
    """An untrained RowReader of four heads, its weights drawn by `seed`."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=1, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=4,
        intermediate_size=4 * hidden, max_position_embeddings=rows, num_labels=classes,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = RowReader(config, columns)
    return Model(module.eval(), None, Task("classification"), config.to_dict())
