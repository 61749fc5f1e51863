"""Teaching the routers that choose how many bits a token needs of each expert, all else as it is.

Knows models with nested experts, the model that they came from, and a stream of tokens. What a taught router does when
the model runs is `runtime.moe.bits`; torch runs such a model at all its bits.

Source: the D2MoE paper, dual routing: cross-entropy against the full-precision model's answers plus alpha times the
mean bits, a capacity for each width while it learns. How the choice is differentiated is not given there: straight
through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.layers.experts import ExpertList
from ondevice.layers.nested import BitScores, NestedLinear
from ondevice.models.model import Model, share

Progress = Callable[[str, float], None]
_RATE = 0.02
_REPORTS = 20


def teach_bits(
    model: Model,
    original: nn.Module,
    ids: npt.NDArray[np.int64],
    *,
    steps: int = 100,
    batch: int = 8,
    context: int = 128,
    alpha: float = 0.002,
    capacity: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done: None,
) -> Model:
    """A model whose layers of nested experts have bit routers; all else is shared with `model`.

    original: whose answers are to be kept. ids: a stream of tokens; windows of `context` are drawn by `seed`.
    alpha: how much a bit costs. capacity: share of an expert's tokens that each width takes while it learns, those
    beyond it skip the expert; for three widths 0.3, 0.4, 0.3, else all alike.
    Raises BadInput for a model without nested experts, another number of capacities, and too few tokens.
    """
    lists = {name: part for name, part in model.module.named_modules() if isinstance(part, ExpertList)}
    lists = {name: part for name, part in lists.items() if isinstance(_gate(part), NestedLinear)}
    if not lists:
        raise BadInput("no layer has nested experts; apply matryoshka first")
    widths = _gate(next(iter(lists.values()))).matrix.widths
    if len(ids) < batch * context + 1:
        raise BadInput(f"{len(ids)} tokens are less than a batch of {batch} x {context}; give more text")
    shares = (
        list(capacity)
        if capacity
        else [0.3, 0.4, 0.3]
        if len(widths) == 3
        else [1 / len(widths)] * len(widths)
    )
    if len(shares) != len(widths) or abs(sum(shares) - 1) > 1e-6:
        raise BadInput(f"capacities of {len(widths)} widths that sum to 1 are needed, not {shares}")
    module = share(model.module)
    generator = torch.Generator().manual_seed(seed)
    mixed = {name: _Mixed(part, shares, generator) for name, part in lists.items()}
    for name, part in mixed.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, part)
    tokens, starts = torch.from_numpy(ids), _starts(len(ids) - context, generator)
    optimizer = torch.optim.Adam([part.scores for part in mixed.values()], lr=_RATE)
    for step in range(steps):
        window = torch.stack([tokens[at : at + context] for at in (next(starts) for _ in range(batch))])
        with torch.no_grad():
            expected = original(input_ids=window, use_cache=False).logits.softmax(-1)
        logits = module(input_ids=window, use_cache=False).logits
        bits = torch.stack([part.mean_bits() for part in mixed.values()]).mean()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), expected.flatten(0, 1)) + alpha * bits
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % max(1, steps // _REPORTS) == 0:
            progress("bit routers", step / steps)
    routers: dict[str, nn.Module] = {}
    for name, part in mixed.items():
        router = BitScores(part.scores.detach().flatten(0, 1))
        routers[f"{name.rpartition('.')[0]}.bit_router"] = router
    return model.with_modules(routers)


class _Mixed(nn.Module):
    """Experts that each token uses at a width of its own. scores: float32 (experts, widths, hidden)."""

    def __init__(self, experts: ExpertList, capacity: Sequence[float], generator: torch.Generator) -> None:
        super().__init__()
        first = _gate(experts)
        self._widths, self._capacity = first.matrix.widths, capacity
        shape = len(experts), len(self._widths), first.in_features
        self.scores = nn.Parameter(0.01 * torch.randn(shape, generator=generator))
        self._activation = experts[0].get_submodule("activation")
        self._weights = [  # of each expert, of each width: gate, up, down
            [
                [_nested(expert, part).weight_at(bits) for part in ("gate_proj", "up_proj", "down_proj")]
                for bits in self._widths
            ]
            for expert in experts
        ]
        self._bits: list[torch.Tensor] = []

    def mean_bits(self) -> torch.Tensor:
        """Expected bits a token and expert in the last pass."""
        mean = torch.cat(self._bits).mean()
        self._bits = []
        return mean

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        numbers = torch.tensor(self._widths, dtype=x.dtype)
        for number, of_expert in enumerate(self._weights):
            tokens, ranks = torch.where(chosen == number)
            if not len(tokens):
                continue
            rows = x[tokens]
            likely = (rows @ self.scores[number].T).softmax(-1)
            self._bits.append(likely @ numbers)
            choice = self._choice(likely)
            straight = choice + likely - likely.detach()
            each = [
                nn.functional.linear(
                    self._activation(nn.functional.linear(rows, gate)) * nn.functional.linear(rows, up), down
                )
                for gate, up, down in of_expert
            ]
            part = sum(straight[:, k, None] * each[k] for k in range(len(each)))
            kept = choice.sum(1, keepdim=True)  # 0 where a token skips the expert
            out = out.index_add(0, tokens, part * kept * weights[tokens, ranks, None])
        return out

    def _choice(self, likely: torch.Tensor) -> torch.Tensor:
        """The likeliest width of each token as ones and zeros; of those beyond a width's capacity all zeros."""
        best = likely.detach().argmax(-1)
        choice = nn.functional.one_hot(best, likely.shape[1]).to(likely.dtype)
        for width, share_ in enumerate(self._capacity):
            takers = torch.where(best == width)[0]
            most = max(1, round(share_ * len(likely)))
            if len(takers) > most:
                order = takers[likely.detach()[takers, width].argsort(descending=True)]
                choice[order[most:]] = 0
        return choice


def _gate(experts: nn.Module) -> NestedLinear:
    return _nested(next(iter(experts.children())), "gate_proj")


def _nested(expert: nn.Module, part: str) -> NestedLinear:
    return expert.get_submodule(part)  # type: ignore[return-value]


def _starts(most: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield int(torch.randint(0, most, (), generator=generator))
