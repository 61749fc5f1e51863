"""The experts of a mixture as linear layers of their own, so that each can be calibrated, replaced and stored.

Knows how transformers calls the experts of Mixtral, Qwen-MoE and OLMoE, and how it holds them: all in two tensors of
three axes. Knows nothing of routers, nor of what becomes of the layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

FUSED = ("gate_up_proj", "down_proj")


class GatedExpert(nn.Module):
    """down(activation(gate(x)) * up(x)). Source: Shazeer 2020, eq. 6."""

    def __init__(self, hidden: int, inner: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return result


class ExpertList(nn.ModuleList):
    """Experts, called as transformers calls its fused ones."""

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The weighted sum of the experts that each token uses, (tokens, hidden).

        x: (tokens, hidden). chosen, weights: (tokens, used), experts and their shares.
        """
        out = torch.zeros_like(x)
        for number, expert in enumerate(self):
            tokens, ranks = torch.where(chosen == number)
            if len(tokens):
                part = expert(x[tokens]) * weights[tokens, ranks, None]
                out = out.index_add(0, tokens, part.to(x.dtype))
        return out


def unfuse(module: nn.Module) -> nn.Module:
    """The module with every fused tensor of experts taken apart; it is edited and returned. On the meta device too."""
    for name, part in list(module.named_modules()):
        fused = [getattr(part, leaf, None) for leaf in FUSED]
        if all(isinstance(values, nn.Parameter) and values.ndim == 3 for values in fused):
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, _apart(part))
    return module


def apart(name: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """A fused tensor of a checkpoint, such as "model.layers.0.mlp.experts.down_proj", as those of single experts."""
    stem, _, leaf = name.rpartition(".")
    if leaf == FUSED[1]:
        return {f"{stem}.{number}.down_proj.weight": each for number, each in enumerate(values)}
    parts: dict[str, torch.Tensor] = {}
    for number, each in enumerate(values):
        gate, up = each.chunk(2)
        parts |= {f"{stem}.{number}.gate_proj.weight": gate, f"{stem}.{number}.up_proj.weight": up}
    return parts


def _apart(fused: Any) -> ExpertList:
    wide, down = fused.gate_up_proj, fused.down_proj
    experts = ExpertList()
    with torch.device("meta"):
        experts.extend(GatedExpert(wide.shape[2], down.shape[2], fused.act_fn) for _ in range(len(wide)))
    state = apart("gate_up_proj", wide.detach()) | apart("down_proj", down.detach())
    experts.load_state_dict({name.lstrip("."): values for name, values in state.items()}, assign=True)
    return experts.requires_grad_(wide.requires_grad)
