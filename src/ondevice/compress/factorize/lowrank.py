"""Low-rank factorisation: a linear layer becomes two thinner ones.

Knows weights and the second moments of their inputs. Knows nothing of plans, budgets or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ondevice.compress.calibration import Calibration, Moments, moments_of
from ondevice.compress.factorize.seminmf import semi_nmf
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput
from ondevice.layers.factorized import LowRankLinear
from ondevice.models.model import Model

Solver = Literal["svd", "snmf", "random"]
# Of the mean diagonal, so that directions calibration never saw keep a root.
_DAMPING = 1e-6


@dataclass(frozen=True)
class LowRank(Technique):
    """Replace linear layers by approximations of a lower rank; those that would not shrink stay.

    rank: a count, or a fraction (below 1) of each layer's break-even rank m n / (m + n), from which on two
        layers hold no fewer weights than one.
    whiten: minimise the error of the layer's output on calibration inputs rather than that of its weights.
    layers: a shell pattern of layer names.
    solver: "svd" is the best there is. "snmf" (semi-NMF: `down` is not negative) and "random" (small random
        halves, to be trained) are the paper's alternatives and know no whitening.
    seed: of "snmf" and "random".

    Sources: Greenformers (Cahyawijaya 2021), section 3; whitening after SVD-LLM (Wang et al. 2024).
    """

    rank: int | float
    whiten: bool = True
    layers: str = "*"
    solver: Solver = "svd"
    seed: int = 0

    def __post_init__(self) -> None:
        whole = isinstance(self.rank, int) or self.rank >= 1
        if self.rank <= 0 or (whole and self.rank != int(self.rank)):
            raise BadInput(
                f"rank is a count of 1 or more or a fraction of the break-even rank, not {self.rank}"
            )
        if self.solver not in ("svd", "snmf", "random"):
            raise BadInput(f"no solver {self.solver!r}; there are: svd, snmf, random")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        whiten = self.whiten and self.solver == "svd"

        def by(name: str, layer: nn.Linear) -> nn.Module | None:
            rank = rank_of(layer, self.rank)
            if rank is None:
                return None
            moments = moments_of(calibration, model, name, "whiten=true") if whiten else None
            return factorize(layer, rank, moments, solver=self.solver, seed=self.seed)

        layers = model.layers(nn.Linear, self.layers)
        if layers and not any(rank_of(layer, self.rank) for layer in layers.values()):
            name, layer = max(layers.items(), key=lambda item: break_even(item[1]))
            raise BadInput(
                f"rank {self.rank} makes no layer smaller; {name} ({layer.out_features} x "
                f"{layer.in_features}) breaks even at {break_even(layer):.1f}: choose a lower rank"
            )
        return model.replace(nn.Linear, self.layers, by=by)


def break_even(layer: nn.Linear) -> float:
    """The rank from which on two layers hold no fewer weights than one: Greenformers, section 3.1."""
    rows, columns = layer.weight.shape
    return rows * columns / (rows + columns)


def rank_of(layer: nn.Linear, rank: int | float) -> int | None:
    """The rank that a setting means for a layer, at least 1; None where the layer would not shrink."""
    limit = break_even(layer)
    count = int(rank) if rank >= 1 else max(1, int(rank * limit))
    return count if count < limit else None


def factorize(
    layer: nn.Linear,
    rank: int,
    moments: Moments | None = None,
    *,
    solver: Solver = "svd",
    seed: int = 0,
) -> LowRankLinear:
    """A layer of that rank in place of a linear one.

    moments: of the layer's inputs; then its output error is least, and a bias takes up the error's mean.
    """
    weight = layer.weight.detach().double()
    rows, columns = weight.shape
    if not 1 <= rank <= min(rows, columns):
        raise BadInput(f"a layer of {rows} x {columns} has no rank {rank}")
    bias = None if layer.bias is None else layer.bias.detach().double()
    generator = torch.Generator().manual_seed(seed)
    if solver == "random":
        up, down = (
            torch.nn.init.xavier_uniform_(torch.empty(shape), generator=generator).double()
            for shape in ((rows, rank), (rank, columns))
        )
    elif solver == "snmf":
        up, down = semi_nmf(weight, rank, generator)
    else:
        up, down = _svd(weight, rank, None if moments is None else _second(moments, bias is not None))
        if bias is not None and moments is not None:
            bias = bias + (weight - up @ down) @ moments.mean
    return LowRankLinear(_layer(down, None), _layer(up, bias))


def _second(moments: Moments, centred: bool) -> torch.Tensor:
    return moments.covariance if centred else moments.second


def _svd(weight: torch.Tensor, rank: int, second: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """up = U sqrt(S), down = sqrt(S) V.T (Greenformers, eq. 3), whitened if there is `second`."""
    if second is None:
        whitened = weight
    else:
        damping = max(_DAMPING * float(second.diagonal().mean()), 1e-30)
        whitened = weight @ torch.linalg.cholesky(second + damping * torch.eye(len(second)).double())
    left, values, _ = torch.linalg.svd(whitened, full_matrices=False)
    left, roots = left[:, :rank], values[:rank].clamp_min(1e-30).sqrt()
    # U U.T W is the best approximation in the whitened sense too, and needs no inverse of the root.
    return left * roots, (left.T @ weight) / roots[:, None]


def _layer(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    return layer
