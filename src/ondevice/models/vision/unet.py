"""U-Net: a class for each pixel, from features of every scale.

Knows tensors. Knows nothing of classes, pictures or training.

Source: Ronneberger et al. 2015, "U-Net", fig. 1, with padded convolutions, batch normalisation, and nearest
upsampling before a convolution in place of the transposed one (Odena et al. 2016, against chequerboards).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d


def _double(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Logits (n, classes, h, w) of pictures (n, channels, h, w); h and w multiples of 2 ** depth."""

    def __init__(self, classes: int, width: int, depth: int, channels: int = 3) -> None:
        super().__init__()
        wide = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([channels, *wide], wide))
        self.reduce = nn.ModuleList(nn.Conv2d(wide[i + 1], wide[i], 1) for i in reversed(range(depth)))
        self.up = nn.ModuleList(_double(2 * wide[i], wide[i]) for i in reversed(range(depth)))
        self.head = nn.Conv2d(width, classes, 1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: (n, width, h, w)."""
        passed: list[torch.Tensor] = []
        for level, stage in enumerate(self.down):
            x = stage(max_pool2d(x, 2) if level else x)
            passed.append(x)
        passed.pop()
        for reduce, stage in zip(self.reduce, self.up):
            x = interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = stage(torch.cat([passed.pop(), x], dim=1))
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(x))
        return logits


def build(config: Mapping[str, Any]) -> UNet:
    """config: classes; width of the finest level; depth, how often the size halves and the width doubles;
    channels of the picture (3)."""
    return UNet(config["classes"], config["width"], config["depth"], config.get("channels", 3))
