"""Medusa heads: from a decoder's last state to the states of tokens further ahead.

Knows a state and its width. Knows nothing of the decoder, whose own matrix makes logits of what a head gives.

Source: Cai et al. 2024, "Medusa", eq. 1, with the matrix shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class MedusaHeads(nn.Module):
    """heads: how many tokens ahead beyond the next. ranks: candidates of each whose rates of being right are kept.

    Each begins as the identity, so that it guesses the next token again.
    """

    rates: torch.Tensor

    def __init__(self, hidden: int, heads: int, ranks: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(heads))
        for head in self.heads:
            assert isinstance(head, nn.Linear)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.register_buffer("rates", torch.zeros(heads, ranks))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(heads, …, hidden) of states (…, hidden)."""
        return torch.stack([states + functional.silu(head(states)) for head in self.heads])


def build(config: Mapping[str, Any]) -> MedusaHeads:
    """Of a folder's configuration."""
    return MedusaHeads(config["hidden_size"], config["heads"], config["ranks"])
