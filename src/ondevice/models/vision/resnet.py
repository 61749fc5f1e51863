"""ResNet for small pictures: two 3x3 convolutions a block, added to their input.

Knows tensors. Knows nothing of classes, pictures or training.

Source: He et al. 2016, "Deep residual learning for image recognition", fig. 2 and table 1 (ResNet-18), thinner and
with a stem for pictures of 32 to 96 pixels. Names of parts are those of torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import relu


class BasicBlock(nn.Module):
    """(n, channels_in, h, w) -> (n, channels, h / stride, w / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Identity() if stride == 1 and channels_in == channels else nn.Sequential(
            nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class ResNet(nn.Module):
    """Logits (n, classes) of pictures (n, channels, h, w)."""

    def __init__(self, classes: int, width: int, blocks: tuple[int, ...], channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, now = [], width
        for index, count in enumerate(blocks):
            wide = width * 2**index
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(now if block == 0 else wide, wide, 2 if index and block == 0 else 1)
                        for block in range(count)
                    )
                )
            )
            now = wide
        self.layers = nn.ModuleList(stages)
        self.fc = nn.Linear(now, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: (n, width * 2 ** (stages - 1)) of (n, channels, h, w)."""
        x = relu(self.bn1(self.conv1(x)))
        for stage in self.layers:
            x = stage(x)
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.features(x))
        return logits


def build(config: Mapping[str, Any]) -> ResNet:
    """config: classes; width of the first stage; blocks of each stage, the width doubling and the size halving
    from one to the next; channels of the picture (3)."""
    return ResNet(config["classes"], config["width"], tuple(config["blocks"]), config.get("channels", 3))
