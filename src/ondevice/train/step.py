"""One pass through a network, forwards or as a step of learning: what is timed and weighed.

Knows modules of transformers and AdamW. Knows no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def forward_pass(module: nn.Module, **inputs: Any) -> Callable[[], object]:
    """module(**inputs) without gradients."""

    def act() -> object:
        with torch.inference_mode():
            return module(**inputs)

    return act


def training_step(module: nn.Module, **inputs: Any) -> Callable[[], None]:
    """One step of AdamW on the mean square of the last hidden states of module(**inputs)."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)

    def act() -> None:
        module(**inputs).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return act
