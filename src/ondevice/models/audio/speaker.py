"""Voices as vectors: two recordings of one voice lie close, whatever is said.

Knows log-mel frames and unit vectors. Knows nothing of sound or training.

Source: x-vectors (Snyder 2018): time-delay layers, mean and deviation over time, one linear layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SpeakerEncoder(nn.Module):
    """Log-mel frames (batch, frames, bands) to unit vectors (batch, dimension).

    config: "bands", "width", "dimension". The first layer halves the frame rate; dilations 1, 2, 3 follow, so that
    a frame hears 0.29 s. Every row counts whole: cut a batch to one length.
    """

    mean: torch.Tensor  # (bands,) of the energies that it was trained on
    deviation: torch.Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, bands = int(config["width"]), int(config["bands"])
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(bands))
        layers: list[nn.Module] = []
        for inputs, kernel, stride, dilation in (
            (bands, 5, 2, 1),
            (width, 3, 1, 1),
            (width, 3, 1, 2),
            (width, 3, 1, 3),
        ):
            around = dilation * (kernel - 1) // 2
            layers += [
                nn.Conv1d(inputs, width, kernel, stride, around, dilation),
                nn.ReLU(),
                nn.BatchNorm1d(width),
            ]
        self.frames = nn.Sequential(*layers)
        self.out = nn.Linear(2 * width, config["dimension"])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x = self.frames(((features - self.mean) / self.deviation).transpose(1, 2))
        spread = (x.var(dim=2, unbiased=False) + 1e-5).sqrt()
        return functional.normalize(self.out(torch.cat([x.mean(dim=2), spread], dim=1)), dim=1)


def build(config: Mapping[str, Any]) -> nn.Module:
    """For the zoo: a `SpeakerEncoder` of this config."""
    return SpeakerEncoder(config)
