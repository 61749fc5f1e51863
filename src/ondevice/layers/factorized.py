"""A linear layer as two thinner ones.

Knows how the halves are joined. Knows nothing of how they were found; each may be compressed further.
"""

from __future__ import annotations

import torch
from torch import nn


class LowRankLinear(nn.Module):
    """y = up(down(x)): `down` (rank, in_features) has no bias, `up` (out_features, rank) has the layer's.

    Each half is a linear layer, plain or compressed. Source: Greenformers (Cahyawijaya 2021), section 3.1.
    """

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down, self.up = down, up

    @property
    def in_features(self) -> int:
        return int(self.down.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        return int(self.up.out_features)  # type: ignore[arg-type]

    @property
    def rank(self) -> int:
        return int(self.down.out_features)  # type: ignore[arg-type]

    @property
    def weight(self) -> torch.Tensor:
        """The matrix that the layer stands for, (out_features, in_features)."""
        up, down = self.up.weight, self.down.weight
        return torch.as_tensor(up) @ torch.as_tensor(down)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.up(self.down(inputs))
        return outputs

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one input vector."""
        return self.rank * (self.in_features + self.out_features)
