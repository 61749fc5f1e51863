"""Unstructured pruning: single weights become zero, and what is left is stored sparse.

Knows weights, and how large the inputs were that they met. Works on any torch module with linear layers;
knows nothing of its structure (`structured.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ondevice.compress.calibration import Calibration, moments_of
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput
from ondevice.layers.sparse import SparseLinear
from ondevice.models.model import Model


@dataclass(frozen=True)
class Sparsify(Technique):
    """Set the weights of linear layers to zero that matter least; store a bit mask and the rest in float16.

    sparsity: share of zeros, in each output's weights.
    method: "magnitude" keeps the largest |w|; "wanda" the largest |w| sqrt(E[x**2]) (needs calibration; Sun
        et al. 2024, eq. 1). Both compare within an output, as Wanda's paper recommends.
    layers: a shell pattern of layer names.
    """

    sparsity: float = 0.5
    method: Literal["wanda", "magnitude"] = "wanda"
    layers: str = "*"

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise BadInput(f"sparsity is the share of zeros, 0 up to 1, not {self.sparsity}")
        if self.method not in ("wanda", "magnitude"):
            raise BadInput(f"no method {self.method!r}; there are: wanda, magnitude")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        def by(name: str, layer: nn.Linear) -> nn.Module:
            weight = layer.weight.detach()
            scores = weight.abs()
            if self.method == "wanda":
                moments = moments_of(calibration, model, name, "wanda (method=magnitude does without)")
                scores = scores * moments.second.diagonal().clamp_min(0).sqrt().float()
            count = int(self.sparsity * layer.in_features)
            gone = scores.argsort(dim=1, stable=True)[:, :count]
            return SparseLinear(weight.scatter(1, gone, 0), layer.bias, _dtype(weight))

        return model.replace(nn.Linear, self.layers, by=by)


def _dtype(weight: torch.Tensor) -> str:
    """float16, unless a weight is too large for it."""
    return "float16" if float(weight.abs().max()) <= torch.finfo(torch.float16).max else "float32"
