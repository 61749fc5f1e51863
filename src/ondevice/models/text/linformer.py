"""Linformer's attention: keys and values are projected along the sequence to a fixed number.

Knows the self-attention that transformers gives BERT-family encoders, whose place it takes. Knows nothing of the
rest of the network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ondevice.errors import BadInput
from ondevice.models.model import Model


class LinformerSelfAttention(nn.Module):
    """Attention of every token to `projected` mixtures of the tokens: cost O(length * projected).

    attention: the BertSelfAttention (or RoBERTa's) whose query, key and value it takes over.
    projected: k, how many keys and values are left. max_length: longest sequence.
    The projection (k, max_length) is learned, shared by keys and values and by all heads.

    Source: Wang et al. 2020, "Linformer", eq. 7, key-value sharing (section 4).
    """

    def __init__(self, attention: nn.Module, projected: int, max_length: int) -> None:
        super().__init__()
        if not 1 <= projected <= max_length:
            raise BadInput(f"projected must be 1 to max_length = {max_length}, not {projected}")
        self.query, self.key, self.value = (getattr(attention, name) for name in ("query", "key", "value"))
        self.attention_head_size: int = attention.attention_head_size  # type: ignore[assignment]
        dropout = attention.dropout
        self.dropout = float(dropout.p) if isinstance(dropout, nn.Dropout) else 0.0
        device = next(self.query.parameters()).device
        self.projection = nn.Linear(max_length, projected, bias=False, device=device)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """hidden_states (batch, length, hidden); attention_mask (batch, 1, ., length), True or 0 where a token
        is real. Returns (batch, length, heads * head_size) and no weights, as transformers expects."""
        batch, length, _width = hidden_states.shape
        if length > self.projection.in_features:
            raise BadInput(f"{length} tokens, but the projection was made for {self.projection.in_features}")
        query, key, value = (layer(hidden_states) for layer in (self.query, self.key, self.value))
        if attention_mask is not None:
            real = attention_mask[:, 0, -1, :, None]
            real = real if real.dtype == torch.bool else real == 0
            key, value = key * real, value * real
        mixing = self.projection.weight[:, :length]
        key, value = mixing @ key, mixing @ value
        query, key, value = (
            part.view(batch, part.shape[1], -1, self.attention_head_size).transpose(1, 2)
            for part in (query, key, value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return mixed.transpose(1, 2).reshape(batch, length, -1), None


def with_linformer(model: Model, projected: int, max_length: int) -> Model:
    """The model with Linformer's attention in every layer, its projections still to be learned."""
    found = [name for name, part in model.module.named_modules() if name.endswith("attention.self")]
    if not found:
        raise BadInput("the model has no self-attention of the BERT family to replace")
    return model.with_modules(
        {
            name: LinformerSelfAttention(model.module.get_submodule(name), projected, max_length)
            for name in found
        }
    )
