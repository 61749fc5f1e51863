"""A Conformer encoder with a CTC head after every so many layers, so that it can stop early.

Knows log-mel frames and label probabilities. Knows nothing of sound, texts or training.

Source: Conformer (Gulati 2020), figures 1 to 3; exits after Wright et al. (2024), "Training dynamic models using
early exits for automatic speech recognition". Layer normalisation stands in the convolution module where the
paper has batch normalisation: padding and single utterances then change nothing. Frames carry no code of their
place: the convolutions tell before from after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ondevice.errors import BadInput

SUBSAMPLING = 4  # frames of features a frame of the encoder: 40 ms at a hop of 10


class FeedForward(nn.Sequential):
    """x (…, width) -> (…, width): the half-step module."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))


class SelfAttention(nn.Module):
    """x (batch, frames, width) -> the same shape. mask (batch, frames): True where there is sound."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, frames, width = x.shape
        parts = self.projection(self.norm(x)).view(batch, frames, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        out: torch.Tensor = self.out(heard.transpose(1, 2).reshape(batch, frames, width))
        return out


class Convolution(nn.Module):
    """x (batch, frames, width) -> the same shape; frames beyond the mask are silence to it."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.middle = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = functional.glu(self.expand(self.norm(x)), dim=-1) * mask.unsqueeze(-1)
        x = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = self.out(functional.silu(self.middle(x)))
        return out


class ConformerLayer(nn.Module):
    """Half a feed-forward, attention, convolution, half a feed-forward, each added to its input; a norm."""

    def __init__(self, width: int, heads: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.first = FeedForward(width, hidden)
        self.attention = SelfAttention(width, heads)
        self.convolution = Convolution(width, kernel)
        self.second = FeedForward(width, hidden)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * self.first(x)
        x = x + self.attention(x, mask)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.second(x)
        normal: torch.Tensor = self.norm(x)
        return normal


class Conformer(nn.Module):
    """Log-mel frames to label log-probabilities at every exit.

    config: "bands", "width", "heads", "hidden" (of the feed-forward), "kernel" (odd), "layers", "exits" (numbers
    of layers after which a head stands, rising; the last is "layers"), "labels" (blank included).
    Raises BadInput where exits lie beyond the depth or the width is no multiple of the heads.
    """

    mean: torch.Tensor  # (bands,) of the features that it was trained on
    deviation: torch.Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, bands = int(config["width"]), int(config["bands"])
        self.exits = tuple(int(depth) for depth in config["exits"])
        if (
            not self.exits
            or list(self.exits) != sorted(set(self.exits))
            or self.exits[-1] != config["layers"]
        ):
            raise BadInput(
                f"exits {self.exits} must rise, and the last stand after all {config['layers']} layers"
            )
        if self.exits[0] < 1 or width % int(config["heads"]) or not int(config["kernel"]) % 2:
            raise BadInput("exits count from 1, width is a multiple of heads, and kernel is odd")
        self.register_buffer("mean", torch.zeros(bands))
        self.register_buffer("deviation", torch.ones(bands))
        self.subsample = nn.ModuleList(
            nn.Conv1d(inputs, width, 3, stride=2, padding=1) for inputs in (bands, width)
        )
        self.entered = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            ConformerLayer(width, config["heads"], config["hidden"], config["kernel"])
            for _ in range(config["layers"])
        )
        self.heads = nn.ModuleList(nn.Linear(width, config["labels"]) for _ in self.exits)

    def forward(
        self, features: torch.Tensor, lengths: torch.Tensor, depth: int | None = None
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """(log-probabilities (batch, frames', labels) of each exit, lengths' (batch,)); frames' = ceil(frames / 4).

        features: (batch, frames, bands), padded; lengths: (batch,) frames that count. depth: stop after so many
        layers; those beyond are not computed.
        """
        x, mask, lengths = self.embed(features, lengths)
        found = []
        for number, layer in enumerate(self.layers[:depth], 1):
            x = layer(x, mask)
            if number in self.exits:
                found.append(functional.log_softmax(self.heads[self.exits.index(number)](x), dim=-1))
        return found, lengths

    def embed(
        self, features: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the first layer gets: (batch, frames', width), its mask (batch, frames') and lengths'."""
        mask = _mask(features.shape[1], lengths)
        x = ((features - self.mean) / self.deviation).transpose(1, 2)
        for convolution in self.subsample:
            # Zeros beyond each row's end before every convolution: a row is the same alone and in a batch.
            x = functional.silu(convolution(x * mask.unsqueeze(1)))
            lengths = (lengths + 1) // 2
            mask = _mask(x.shape[2], lengths)
        return self.entered(x.transpose(1, 2)), mask, lengths


def _mask(frames: int, lengths: torch.Tensor) -> torch.Tensor:
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def build(config: Mapping[str, Any]) -> nn.Module:
    """For the zoo: a `Conformer` of this config."""
    return Conformer(config)
