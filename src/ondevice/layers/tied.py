"""The output head of a language model that shares its weight with the embedding table.

Knows a table, plain or in tiles, and multiplies by it. Knows nothing of how the table came to be what it is.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ondevice.errors import BadInput
from ondevice.layers.quantized import QuantizedEmbedding, int8_linear


class TiedLinear(nn.Module):
    """y = x W.T, with W the table NAME of the same model: nothing of its own is stored.

    A table in tiles is multiplied by in integers, each token quantised to int8 by its largest value, as the
    runtime does, unless its activations are "float". `tie(module)` sets the table; whoever replaces a model's table
    calls it again.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._table: list[nn.Module] = []  # not a submodule of this one: the model has it elsewhere

    @property
    def out_features(self) -> int:
        return int(self._weights().num_embeddings)

    @property
    def in_features(self) -> int:
        return int(self._weights().embedding_dim)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        table = self._weights()
        if isinstance(table, nn.Embedding):
            return functional.linear(inputs, table.weight)
        if table.activations == "float":
            return functional.linear(inputs, table.dequantized)
        return int8_linear(inputs, torch.from_numpy(table.matrix.int8()).float(), table.scales)

    def _weights(self) -> nn.Embedding | QuantizedEmbedding:
        table = self._table[0]
        if not isinstance(table, (nn.Embedding, QuantizedEmbedding)):
            raise BadInput(
                f"{self.name} is a {type(table).__name__}, which cannot give logits; keep it as one matrix"
            )
        return table

    def set_table(self, table: nn.Module) -> None:
        """Multiply by this table from now on."""
        self._table = [table]


def tie(module: nn.Module) -> nn.Module:
    """Give every tied head of a module tree the table that now has its name; the module."""
    for part in module.modules():
        if isinstance(part, TiedLinear):
            part.set_table(module.get_submodule(part.name))
    return module


def tied_heads(module: nn.Module) -> dict[str, str]:
    """The heads that share a table's weight: by the table's name, the head's."""
    return {part.name: name for name, part in module.named_modules() if isinstance(part, TiedLinear)}
