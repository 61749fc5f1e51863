"""A feed-forward layer of experts, of which each token uses a few.

Knows the router's rule and where experts' tensors lie in the checkpoints of Mixtral, Qwen and OLMoE. Knows nothing of
the rest of the network. A token's result does not depend on the tokens beside it.

Sources: Shazeer et al. 2017, "Outrageously Large Neural Networks"; Jiang et al. 2024, "Mixtral of Experts".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact
from ondevice.kernels import Kernels, Linear, Matrix
from ondevice.kernels.planes import PlaneProducts
from ondevice.runtime.moe.bits import read_bit_router
from ondevice.runtime.moe.nested import (
    HeldPlanes,
    NestedExperts,
    PlaneSource,
    is_nested,
    plane_of,
    read_shapes,
)
from ondevice.runtime.projection import Projection, Tensors, read_projection, side_by_side
from ondevice.runtime.weights.experts import ExpertCache
from ondevice.runtime.weights.planes import CalledPlanes, PlaneCache

Floats = npt.NDArray[np.float32]
# Where a layer keeps its router and its experts, and what an expert calls gate, up and down.
_PLACES = (
    ("mlp", ("gate_proj", "up_proj", "down_proj")),
    ("block_sparse_moe", ("w1", "w3", "w2")),
)


@dataclass(frozen=True)
class Expert:
    """A gated feed-forward layer. widen: gate and up, in one product where they read their input alike."""

    widen: list[Projection]
    narrow: Projection

    def apply(self, kernels: Kernels, x: Floats, gate: str) -> Floats:
        """narrow(activation(gate) * up), (tokens, hidden)."""
        return self.narrow.apply(kernels, self.gated(kernels, x, gate))

    def gated(self, kernels: Kernels, x: Floats, gate: str) -> Floats:
        """activation(gate) * up, what narrow takes."""
        parts = [part.apply(kernels, x) for part in self.widen]
        wide = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return kernels.gated(wide, gate)


class ExpertsOfLayer(Protocol):
    """Where a layer's experts come from."""

    def ask(self, numbers: Sequence[int]) -> Iterator[tuple[int, Expert]]:
        """Begin to bring these; each with its number, as they come, and there until the next is taken."""


class HeldExperts(tuple[Expert, ...]):
    """Experts that are always there."""

    def ask(self, numbers: Sequence[int]) -> Iterator[tuple[int, Expert]]:
        return ((number, self[number]) for number in numbers)


@dataclass(frozen=True)
class CalledExperts:
    """Experts in a cache. stem: of their tensors' names. names: of an expert's gate, up and down."""

    cache: ExpertCache
    layer: int
    stem: str
    names: tuple[str, str, str]

    def ask(self, numbers: Sequence[int]) -> Iterator[tuple[int, Expert]]:
        coming = self.cache.ask(
            [(self.layer, int(number)) for number in numbers],
            lambda unit, tensors: _expert(tensors, f"{self.stem}.{unit[1]}", self.names),
        )
        return ((unit[1], expert) for unit, expert in coming)


Listener = Callable[[int, npt.NDArray[np.int64]], None]


@dataclass(frozen=True)
class Experts:
    """layer: its number. count: of experts. used: experts a token. normalised: whether the weights of those used sum
    to one. shared: an expert that all tokens use, with a gate of its own. listeners: told, in every step, the layer
    and the experts that its tokens chose, (tokens, used), once those that are missing have been asked for. nested: the
    experts instead, where they are stored in nested bits."""

    layer: int
    router: Projection
    experts: ExpertsOfLayer
    count: int
    used: int
    normalised: bool
    shared: Expert | None = None
    shared_gate: Projection | None = None
    listeners: list[Listener] = field(default_factory=list)
    nested: NestedExperts | None = None

    def route(self, kernels: Kernels, x: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Which experts each token uses, likeliest first, and their weights: (tokens, used) each."""
        logits = self.router.apply(kernels, x)
        spread = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = spread / spread.sum(axis=1, keepdims=True)
        chosen = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.used]
        weights = np.take_along_axis(probabilities, chosen, axis=1)
        return chosen, weights / weights.sum(axis=1, keepdims=True) if self.normalised else weights

    def apply(self, kernels: Kernels, x: Floats, gate: str) -> Floats:
        """The weighted sum of the experts that each token uses, (tokens, hidden)."""
        chosen, weights = self.route(kernels, x)
        parts = self._parts(kernels, x, chosen, gate)
        out: Floats = parts[0] * weights[:, :1]
        for rank in range(1, self.used):  # in order of rank, so that company changes no sum
            out += parts[rank] * weights[:, rank : rank + 1]
        if self.shared is not None and self.shared_gate is not None:
            opened = 1 / (1 + np.exp(-self.shared_gate.apply(kernels, x)))
            out += opened * self.shared.apply(kernels, x, gate)
        return out

    def _parts(self, kernels: Kernels, x: Floats, chosen: npt.NDArray[np.int64], gate: str) -> Floats:
        """What each of its experts gives a token, (used, tokens, hidden)."""
        if self.nested is not None:
            for listener in self.listeners:
                listener(self.layer, chosen)
            return self.nested.apply(kernels, x, chosen, gate)
        parts = np.empty((self.used, *x.shape), np.float32)
        coming = self.experts.ask(np.unique(chosen).tolist())
        for listener in self.listeners:
            listener(self.layer, chosen)
        for number, expert in coming:
            tokens, ranks = np.nonzero(chosen == number)
            parts[ranks, tokens] = expert.apply(kernels, np.ascontiguousarray(x[tokens]), gate)
        return parts


def read_experts(
    tensors: Tensors, layer: str, config: Mapping[str, Any], products: PlaneProducts | None = None
) -> Experts | None:
    """The experts of a layer; None where its feed-forward part is dense. products: multiply those in nested bits.

    Raises BadArtifact where parts are missing or do not fit.
    """
    found = [
        (f"{layer}.{place}", names) for place, names in _PLACES if f"{layer}.{place}.gate.weight" in tensors
    ]
    if not found:
        return None
    name, names = found[0]
    router = read_projection(tensors, f"{name}.gate")
    used = int(config.get("num_experts_per_tok") or 2)
    if not 1 <= used <= router.rows:
        raise BadArtifact(f"{name}: a token cannot use {used} of {router.rows} experts")
    experts: ExpertsOfLayer
    number = int(re.findall(r"\d+", layer)[-1])
    nested: NestedExperts | None = None
    if products is not None and is_nested(tensors, f"{name}.experts"):
        nested, experts = _nested(tensors, name, number, router.rows, products), HeldExperts()
    elif isinstance(tensors, ExpertCache):
        _check_parts(tensors, [f"{name}.experts.{each}" for each in range(router.rows)], names)
        experts = CalledExperts(tensors, number, f"{name}.experts", names)
    elif f"{name}.experts.gate_up_proj" in tensors:
        experts = _fused(tensors, name, router.rows)
    else:
        stems = [f"{name}.experts.{each}" for each in range(router.rows)]
        experts = HeldExperts(_expert(tensors, stem, names) for stem in stems)
    shared = f"{name}.shared_expert.gate_proj.weight" in tensors
    return Experts(
        number,
        router,
        experts,
        router.rows,
        used,
        config.get("model_type") == "mixtral" or bool(config.get("norm_topk_prob")),
        _expert(tensors, f"{name}.shared_expert", names) if shared else None,
        read_projection(tensors, f"{name}.shared_expert_gate") if shared else None,
        nested=nested,
    )


def _nested(tensors: Tensors, name: str, layer: int, count: int, products: PlaneProducts) -> NestedExperts:
    stem = f"{name}.experts"
    shapes = read_shapes(tensors, stem, count)
    source: PlaneSource
    if isinstance(tensors, PlaneCache):
        source = CalledPlanes(tensors, layer, stem)
    else:
        numbers = range(shapes.gate.planes + 1)
        source = HeldPlanes(
            [[plane_of(tensors, stem, expert, each) for each in numbers] for expert in range(count)]
        )
    bits = read_bit_router(tensors, name, count, shapes.gate.planes + 1)
    return NestedExperts(layer, shapes, source, bits, products)


def read_dense(tensors: Tensors, name: str) -> Expert:
    """A gated feed-forward layer that every token uses. Raises BadArtifact as `read_experts`."""
    return _expert(tensors, name, _PLACES[0][1])


def _expert(tensors: Tensors, name: str, names: tuple[str, str, str]) -> Expert:
    gate, up, down = (read_projection(tensors, f"{name}.{part}") for part in names)
    if not gate.rows == up.rows == down.columns:
        raise BadArtifact(f"{name}: gate, up and down do not fit together")
    return Expert(side_by_side([gate, up]), down)


def _check_parts(cache: ExpertCache, stems: Sequence[str], names: tuple[str, str, str]) -> None:
    """Raise BadArtifact where an expert that will only be read when it is called is not whole."""
    for stem in stems:
        for part in names:
            if f"{stem}.{part}.weight" not in cache and f"{stem}.{part}.down.weight" not in cache:
                raise BadArtifact(
                    f"tensor {stem}.{part}.weight is missing; the artifact is not a whole model"
                )


def _fused(tensors: Tensors, name: str, count: int) -> HeldExperts:
    """Experts as transformers holds them in memory: gate and up of all in one tensor, down in another."""
    if f"{name}.experts.down_proj" not in tensors:
        raise BadArtifact(f"tensor {name}.experts.down_proj is missing; the artifact is not a whole model")
    wide, down = (tensors[f"{name}.experts.{part}"].to_dense() for part in ("gate_up_proj", "down_proj"))
    if wide.ndim != 3 or down.ndim != 3 or len(wide) != count or len(down) != count:
        raise BadArtifact(f"{name}.experts: {wide.shape} and {down.shape} are not {count} experts")
    if wide.shape[1] != 2 * down.shape[2]:
        raise BadArtifact(f"{name}.experts: gate, up and down do not fit together")

    def projection(values: npt.NDArray[Any]) -> Projection:
        return Projection(Linear((Matrix.dense(np.ascontiguousarray(values)),)))

    return HeldExperts(Expert([projection(w)], projection(d)) for w, d in zip(wide, down, strict=True))
