"""A depthwise-separable convolutional network that tells words apart, small enough for a microcontroller.

Knows cepstra and classes. Knows nothing of sound or training.

Source: DS-CNN of "Hello Edge" (Zhang 2017), size S: 64 channels, four blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ondevice.errors import BadInput


class DSCNN(nn.Module):
    """Cepstra (batch, frames, coefficients) to class logits (batch, classes).

    config: "frames", "coefficients", "channels", "blocks", "classes". The first convolution is 10 x 4 with stride
    2 x 2; each block a 3 x 3 depthwise and a 1 x 1 convolution, each with batch normalisation and ReLU; then the
    mean over time and frequency. Raises BadInput for frames of another size.
    """

    mean: torch.Tensor  # (coefficients,) of the cepstra that it was trained on
    deviation: torch.Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        channels = int(config["channels"])
        self.shape = (int(config["frames"]), int(config["coefficients"]))
        self.register_buffer("mean", torch.zeros(self.shape[1]))
        self.register_buffer("deviation", torch.ones(self.shape[1]))
        self.first = nn.Sequential(*_normal(nn.Conv2d(1, channels, (10, 4), 2, (5, 1), bias=False)))
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    *_normal(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)),
                    *_normal(nn.Conv2d(channels, channels, 1, bias=False)),
                )
                for _ in range(config["blocks"])
            )
        )
        self.head = nn.Linear(channels, config["classes"])

    def forward(self, cepstra: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embed(cepstra))
        return logits

    def embed(self, cepstra: torch.Tensor) -> torch.Tensor:
        """What the head sees, (batch, channels)."""
        if cepstra.ndim != 3 or tuple(cepstra.shape[1:]) != self.shape:
            raise BadInput(
                f"cepstra must be (batch, {self.shape[0]}, {self.shape[1]}), not {tuple(cepstra.shape)}"
            )
        x = ((cepstra - self.mean) / self.deviation).unsqueeze(1)
        found: torch.Tensor = self.blocks(self.first(x)).mean(dim=(2, 3))
        return found


def _normal(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()


def build(config: Mapping[str, Any]) -> nn.Module:
    """For the zoo: a `DSCNN` of this config."""
    return DSCNN(config)
