"""Structured pruning: heads, neurons and whole layers go, and what is left really is smaller.

Knows the structure of BERT-family encoders through `layers.structure`, and what calibration saw. Knows
nothing of single weights (`unstructured.py`) or budgets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from ondevice.compress.calibration import Calibration, moments_of
from ondevice.compress.prune.eliminate import eliminate
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.structure import blocks, stack_of
from ondevice.models.model import Model, share

_TEXTS = 64  # that decide which layer goes: each candidate runs over them


@dataclass(frozen=True)
class Prune(Technique):
    """Cut parts out of an encoder of the BERT family.

    heads, neurons: share of the attention heads and of the feed-forward neurons that goes in every layer.
    drop_layers: how many whole layers go, each time the one whose absence changes the output least.

    Heads and neurons are chosen, and the projection behind them is solved anew, by least squares over the
    calibration inputs (`eliminate`). Layers go first, then heads, then neurons, with new moments between.
    """

    heads: float = 0.0
    neurons: float = 0.0
    drop_layers: int = 0

    def __post_init__(self) -> None:
        for name in ("heads", "neurons"):
            if not 0 <= getattr(self, name) < 1:
                raise BadInput(f"{name} is the share that goes, 0 up to 1, not {getattr(self, name)}")
        if self.drop_layers < 0:
            raise BadInput(f"drop_layers must be 0 or more, not {self.drop_layers}")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        depth = len(blocks(model.module))
        if self.drop_layers >= depth:
            raise BadInput(f"drop_layers={self.drop_layers} leaves nothing: the model has {depth} layers")
        if calibration is None:
            raise NeedsCalibration(
                "prune needs calibration texts; give some with --data or Calibration(texts)"
            )
        if self.drop_layers:
            model = _drop_layers(model, self.drop_layers, calibration)
        if self.heads:
            model = _cut_heads(model, self.heads, calibration)
        return _cut_neurons(model, self.neurons, calibration) if self.neurons else model


def _drop_layers(model: Model, count: int, calibration: Calibration) -> Model:
    texts = calibration.texts[:: max(1, len(calibration.texts) // _TEXTS)][:_TEXTS]
    original = model.predict(texts)
    for _ in range(count):
        candidates = [_without(model, index) for index in range(len(blocks(model.module)))]
        changes = [float(np.square(candidate.predict(texts) - original).mean()) for candidate in candidates]
        model = candidates[int(np.argmin(changes))]
    return model


def _without(model: Model, index: int) -> Model:
    module = share(model.module)
    parent, _, leaf = stack_of(module).rpartition(".")
    owner = module.get_submodule(parent)
    left = [layer for place, layer in enumerate(getattr(owner, leaf)) if place != index]
    setattr(owner, leaf, nn.ModuleList(left))
    return replace(model, module=module, config=model.config | {"num_hidden_layers": len(left)})


def _cut_heads(model: Model, part: float, calibration: Calibration) -> Model:
    new: dict[str, nn.Module] = {}
    for block in blocks(model.module):
        width = _plain(model, block.attended).in_features
        heads = list(torch.arange(width).view(-1, block.head_size))
        kept, new[block.attended] = _shrink(model, block.attended, heads, part, calibration)
        for name in (block.query, block.key, block.value):
            new[name] = _rows(_plain(model, name), kept)
    return model.with_modules(new)


def _cut_neurons(model: Model, part: float, calibration: Calibration) -> Model:
    new: dict[str, nn.Module] = {}
    for block in blocks(model.module):
        neurons = list(torch.arange(_plain(model, block.output).in_features).view(-1, 1))
        kept, new[block.output] = _shrink(model, block.output, neurons, part, calibration)
        new[block.intermediate] = _rows(_plain(model, block.intermediate), kept)
        left = len(kept)
    return replace(model.with_modules(new), config=model.config | {"intermediate_size": left})


def _shrink(
    model: Model, name: str, groups: list[torch.Tensor], part: float, calibration: Calibration
) -> tuple[torch.Tensor, nn.Linear]:
    """(the inputs that stay, the layer solved anew for them)."""
    layer = _plain(model, name)
    moments = moments_of(calibration, model, name, "prune")
    second = moments.second if layer.bias is None else moments.covariance
    kept, weight = eliminate(layer.weight, second, groups, int(part * len(groups)))
    bias = None
    if layer.bias is not None:  # takes up the mean of what is gone
        bias = layer.bias.double() + layer.weight.double() @ moments.mean - weight @ moments.mean[kept]
    return kept, _linear(weight, bias)


def _rows(layer: nn.Linear, kept: torch.Tensor) -> nn.Linear:
    return _linear(layer.weight[kept], None if layer.bias is None else layer.bias[kept])


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta").eval()
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().float(), requires_grad=False)
    return layer


def _plain(model: Model, name: str) -> nn.Linear:
    layer = model.module.get_submodule(name)
    if not isinstance(layer, nn.Linear):
        raise BadInput(f"{name} is a {type(layer).__name__} already; prune before other techniques")
    return layer
