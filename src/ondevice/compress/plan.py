"""Plans: techniques in their order, and what a model's layers have become.

Knows techniques and compressed layers. How formats are chosen under a budget is `planner.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.technique import Technique
from ondevice.layers.factorized import LowRankLinear
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear, Tiled
from ondevice.layers.sparse import SparseLinear
from ondevice.models.model import Model


@dataclass(frozen=True)
class Plan(Technique):
    """Techniques applied one after another: `Plan([LowRank(rank=0.5), Quantize(bits=4)])`."""

    techniques: Sequence[Technique]

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        for technique in self.techniques:
            model = technique.apply(model, calibration)
        return model

    def to_json(self) -> list[dict[str, Any]]:
        """Each technique with its settings."""
        return [
            {"technique": type(technique).__name__.lower(), "settings": asdict(technique)}
            for technique in self.techniques
        ]


def describe(module: nn.Module) -> list[dict[str, Any]]:
    """What became of every linear layer and table: {"layer", "technique", "settings", "bytes"}.

    Read off the module itself, so that it is true whatever led there.
    """
    rows = []
    for name, layer in module.named_modules():
        settings: dict[str, Any] = {}
        if isinstance(layer, Tiled):
            technique, size = "quantize", layer.stored_bytes()
            settings = {"bits": layer.bits, "group_size": layer.group_size}
            if isinstance(layer, QuantizedLinear):
                settings["activations"] = layer.activations
            if isinstance(layer, QuantizedEmbedding):
                settings["rows"] = layer.num_embeddings
        elif isinstance(layer, SparseLinear):
            technique, size = "sparsify", layer.stored_bytes()
            settings = {"density": round(float((layer.weight != 0).float().mean()), 4)}
        elif isinstance(layer, (nn.Linear, nn.Embedding)):
            technique, size = "none", sum(value.nbytes for value in layer.parameters(recurse=False))
        else:
            continue
        parent, _, half = name.rpartition(".")
        if half in ("down", "up") and isinstance(module.get_submodule(parent), LowRankLinear):
            technique = f"lowrank, {technique}" if technique != "none" else "lowrank"
        rows.append({"layer": name, "technique": technique, "settings": settings, "bytes": size})
    return rows
