"""What an encoder does for a text, or a decoder for a token, as operations that a device's roofline can time.

Knows module trees of the BERT and Llama families, plain or compressed. Counts; runs nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ondevice.devices.roofline import Operation
from ondevice.layers.banded import BandedEmbedding
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.sparse import SparseLinear
from ondevice.layers.tied import TiedLinear
from ondevice.models.model import Model


def encoder_work(model: Model, tokens: int) -> list[Operation]:
    """The operations of one text of so many tokens: tables, linear layers, attention, normalisation."""
    operations = []
    heads: list[tuple[str, int]] = []
    for name, layer in model.module.named_modules():
        if isinstance(layer, (nn.Linear, QuantizedLinear, SparseLinear)):
            operations.append(linear_operation(name, layer, tokens))
            if name.endswith(".query"):
                heads.append((name.removesuffix(".query"), int(layer.out_features)))
        elif isinstance(layer, (nn.Embedding, QuantizedEmbedding, BandedEmbedding)):
            if ".band." not in name:  # a band is part of its table
                width = float(layer.embedding_dim)
                operations.append(Operation(name, 0, 4 * width * tokens, 8 * width * tokens))
        elif isinstance(layer, nn.LayerNorm):
            width = float(layer.normalized_shape[0])
            operations.append(Operation(name, 4 * width * tokens, 8 * width, 12 * width * tokens))
    for name, width in heads:
        # scores and their product with the values; three arrays in, one out
        operations.append(Operation(name, 2.0 * tokens * tokens * width, 0, 16.0 * width * tokens))
    return operations


def decoder_work(model: Model, context: int) -> list[Operation]:
    """The operations of one more token after `context` of them, the cache in float16."""
    operations = []
    for name, layer in model.module.named_modules():
        if isinstance(layer, (nn.Linear, QuantizedLinear, SparseLinear)):
            operations.append(linear_operation(name, layer, 1))
            if name.endswith((".k_proj", ".v_proj")):  # the cache is read, and one row of it written
                cached = float(layer.out_features)
                groups = int(model.config["num_attention_heads"]) / int(
                    model.config.get("num_key_value_heads") or model.config["num_attention_heads"]
                )
                operations.append(
                    Operation(f"{name} cache", context * cached * groups, 0, 2 * (context + 1) * cached)
                )
        elif isinstance(layer, TiedLinear):
            table = model.module.get_submodule(layer.name)
            packed = float(table.stored_bytes()) if isinstance(table, QuantizedEmbedding) else None
            operations.append(linear_operation(name, layer, 1, packed))
        elif isinstance(layer, (nn.Embedding, QuantizedEmbedding, BandedEmbedding)):
            if ".band." not in name:
                operations.append(Operation(name, 0, 4.0 * layer.embedding_dim, 8.0 * layer.embedding_dim))
        elif type(layer).__name__.endswith("RMSNorm"):
            width = float(layer.get_parameter("weight").numel())
            operations.append(Operation(name, 3 * width, 4 * width, 8 * width))
    return operations


def linear_operation(name: str, layer: Any, tokens: int, stored_bytes: float | None = None) -> Operation:
    """One linear layer for so many tokens; `stored_bytes` where another format is tried."""
    rows, columns = int(layer.out_features), int(layer.in_features)
    quantized = stored_bytes is not None or (
        isinstance(layer, QuantizedLinear) and layer.activations == "int8"
    )
    if stored_bytes is None:
        compressed = isinstance(layer, (QuantizedLinear, SparseLinear))
        stored_bytes = float(layer.stored_bytes() if compressed else 4 * rows * columns)
    moved = 4.0 * (rows + columns) * tokens
    return Operation(
        name, float(rows * columns * tokens), stored_bytes, moved, "int8" if quantized else "fp32"
    )
