"""MobileNetV2 for small pictures: inverted residuals with linear bottlenecks.

Knows tensors. Knows nothing of classes, pictures or training.

Source: Sandler et al. 2018, "MobileNetV2", fig. 4 and table 2, with strides for pictures of 32 to 96 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

Row = tuple[int, int, int, int]  # expansion t, channels c, repeats n, stride s: a row of the paper's table 2


def _conv(channels_in: int, channels: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    ]


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 without a nonlinearity; added to its input where
    the shapes agree. (n, channels_in, h, w) -> (n, channels, h / stride, w / stride)."""

    def __init__(self, channels_in: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        expand = [*_conv(channels_in, inner, 1), nn.ReLU6()] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand, *_conv(inner, inner, 3, stride, inner), nn.ReLU6(), *_conv(inner, channels, 1)
        )
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Logits (n, classes) of pictures (n, channels, h, w)."""

    def __init__(self, classes: int, stem: int, rows: Sequence[Row], last: int, channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_conv(channels, stem, 3, 2), nn.ReLU6()]
        now = stem
        for expansion, wide, repeats, stride in rows:
            for index in range(repeats):
                layers.append(InvertedResidual(now, wide, stride if index == 0 else 1, expansion))
                now = wide
        self.layers = nn.Sequential(*layers, *_conv(now, last, 1), nn.ReLU6())
        self.classifier = nn.Linear(last, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """What the head reads: (n, last) of (n, channels, h, w)."""
        y: torch.Tensor = self.layers(x)
        return y.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.features(x))
        return logits


def build(config: Mapping[str, Any]) -> MobileNetV2:
    """config: classes; stem, the channels of the first convolution (stride 2); rows of [t, c, n, s] as in the
    paper's table 2; last, the width before the head; channels of the picture (3)."""
    rows = [(int(t), int(c), int(n), int(s)) for t, c, n, s in config["rows"]]
    return MobileNetV2(config["classes"], config["stem"], rows, config["last"], config.get("channels", 3))
