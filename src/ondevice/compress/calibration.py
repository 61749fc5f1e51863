"""What the layers of a model see on calibration texts: streamed second moments, ranges, token counts.

Knows how to run a model over texts and look at the inputs of its layers. Knows nothing of what is
done with the figures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.factorized import LowRankLinear
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.sparse import SparseLinear
from ondevice.layers.tied import TiedLinear
from ondevice.models.model import Model, batches

_LINEAR = (nn.Linear, QuantizedLinear, LowRankLinear, SparseLinear, TiedLinear)
_EMBEDDING = (nn.Embedding, QuantizedEmbedding)
# How many tensors back an input counts as the same one: query, key and value follow each other.
_RECENT = 8


class Moments:
    """Of the inputs x (channels,) of a layer over all calibration tokens, padding left out:

    count: tokens. absmax: max |x| of each channel, float32 (channels,).
    second: E[x x.T], float64 (channels, channels). mean: E[x], float64 (channels,).
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.absmax = torch.zeros(channels)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)
        self._sum = torch.zeros(channels, dtype=torch.float64)

    @property
    def second(self) -> torch.Tensor:
        return self._products / self.count

    @property
    def mean(self) -> torch.Tensor:
        return self._sum / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """E[x x.T] - E[x] E[x].T, float64 (channels, channels): what is left of an error once the bias has
        taken up its mean."""
        return self.second - torch.outer(self.mean, self.mean)

    def add(self, inputs: torch.Tensor) -> None:
        """Take in inputs (tokens, channels)."""
        inputs = inputs.float()
        self.count += len(inputs)
        self.absmax = torch.maximum(self.absmax, inputs.abs().amax(dim=0))
        self._products += inputs.T @ inputs  # a batch in float32, the sum over batches in float64
        self._sum += inputs.sum(dim=0)

    def error(self, difference: torch.Tensor) -> float:
        """E[|D x|**2], the squared output error a token when a weight is off by D (outputs, channels)."""
        difference = difference.double()
        return float(((difference @ self.second) * difference).sum())


@dataclass
class _Seen:
    moments: dict[str, Moments]
    token_counts: dict[str, torch.Tensor]


class Calibration:
    """Texts that stand for what a model will see; works out lazily what is asked of it."""

    def __init__(self, texts: Sequence[str], batch_size: int = 16) -> None:
        if not texts:
            raise BadInput("no calibration texts given")
        self.texts = tuple(texts)
        self.batch_size = batch_size
        self._seen: WeakKeyDictionary[nn.Module, _Seen] = WeakKeyDictionary()

    def moments(self, model: Model) -> dict[str, Moments]:
        """Of every linear layer (plain or compressed) by name; layers fed by one tensor share one object."""
        return self._observe(model).moments

    def token_counts(self, model: Model) -> dict[str, torch.Tensor]:
        """How often each row of every embedding was looked up, int64 (rows,), by name."""
        return self._observe(model).token_counts

    def _observe(self, model: Model) -> _Seen:
        if model.module not in self._seen:
            self._seen[model.module] = _Observer(model).run(self.texts, self.batch_size)
        return self._seen[model.module]


def moments_of(calibration: Calibration | None, model: Model, name: str, why: str) -> Moments:
    """The moments of one layer, or NeedsCalibration that names the layer and the reason."""
    if calibration is None:
        raise NeedsCalibration(f"{why} needs calibration texts; give some with --data or Calibration(texts)")
    moments = calibration.moments(model).get(name)
    if moments is None or moments.count == 0:
        raise NeedsCalibration(f"no calibration text reached the layer {name}, and {why} needs its inputs")
    return moments


class _Observer:
    """Hooks on every linear layer and embedding while a model runs over texts."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.seen = _Seen({}, {})
        self.mask = torch.ones(1, 1, dtype=torch.bool)
        # The tensors themselves, so that none is freed and another takes its identity.
        self.recent: deque[tuple[torch.Tensor, Moments]] = deque(maxlen=_RECENT)

    @torch.inference_mode()
    def run(self, texts: Sequence[str], batch_size: int) -> _Seen:
        handles = []
        for name, module in self.model.module.named_modules():
            if isinstance(module, _LINEAR):
                handles.append(module.register_forward_pre_hook(partial(self._linear, name)))
            elif isinstance(module, _EMBEDDING):
                handles.append(module.register_forward_pre_hook(partial(self._embedding, name)))
        try:
            for _, ids, mask in batches(self.model.tokens(texts), batch_size):
                self.mask = mask.bool()
                self.recent.clear()
                self.model.outputs(ids, mask)
        finally:
            for handle in handles:
                handle.remove()
        return self.seen

    def _linear(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs: torch.Tensor = args[0]
        for tensor, moments in self.recent:
            if tensor is inputs:
                self.seen.moments.setdefault(name, moments)
                return
        moments = self.seen.moments.setdefault(name, Moments(inputs.shape[-1]))
        moments.add(self._real(inputs, inputs.shape[:-1]).reshape(-1, inputs.shape[-1]))
        self.recent.append((inputs, moments))

    def _embedding(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        ids = self._real(args[0], args[0].shape).reshape(-1)
        rows = int(getattr(module, "num_embeddings", 0))
        counts = torch.bincount(ids, minlength=rows)
        self.seen.token_counts[name] = self.seen.token_counts.get(name, 0) + counts

    def _real(self, values: torch.Tensor, leading: torch.Size) -> torch.Tensor:
        """Without the padding, where the tensor has one entry a token (one a text has none)."""
        if leading == self.mask.shape:
            return values[self.mask]
        return values[self.mask.reshape(-1)] if leading == (self.mask.numel(),) else values
