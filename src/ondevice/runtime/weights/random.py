"""Decoders of published shapes with random quantised weights, for work on speed and memory: neither depends on values.

Knows configurations and the tiled layout. Nothing is kept in float: a model of billions of weights is made in the bytes
that it takes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.numerics.tiles import PANEL, check_format, stored_bytes

_LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192, "rope_theta": 500000.0}  # fmt: skip
# As published on the hub.
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
        "rope_parameters": _LLAMA3,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
}  # fmt: skip


class RandomTensor:
    """A tensor as an artifact keeps it."""

    def __init__(self, format_: dict[str, Any], array: npt.NDArray[Any]) -> None:
        self.format, self.array = format_, array

    def to_dense(self) -> npt.NDArray[Any]:
        """The values of a dense tensor; the kernels read tiles as they are."""
        if self.format["kind"] != "dense":
            raise BadInput("a random tensor in tiles has no dense form; use it on the native backend")
        return self.array


def random_decoder(
    shape: str, *, bits: int = 4, group_size: int = 32, seed: int = 0
) -> tuple[dict[str, Any], dict[str, RandomTensor]]:
    """(configuration, tensors) of a published shape, every matrix in tiles with int8 activations, norms of ones.

    Raises BadInput for an unknown shape.
    """
    if shape not in SHAPES:
        raise BadInput(f"no shape {shape!r}; there are: {', '.join(SHAPES)}")
    config = SHAPES[shape]
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    matrices = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (config["intermediate_size"], hidden),
        "mlp.up_proj": (config["intermediate_size"], hidden),
        "mlp.down_proj": (hidden, config["intermediate_size"]),
    }
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    if config["model_type"] == "qwen3":
        norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    tensors = {
        "model.embed_tokens.weight": _tiles("embed", config["vocab_size"], hidden, bits, group_size, seed)
    }
    for layer in range(config["num_hidden_layers"]):
        for name, (rows, columns) in matrices.items():
            full = f"model.layers.{layer}.{name}.weight"
            tensors[full] = _tiles(full, rows, columns, bits, group_size, seed)
        for name, size in norms.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = _ones(size)
    tensors["model.norm.weight"] = _ones(hidden)
    return config, tensors


def _ones(size: int) -> RandomTensor:
    return RandomTensor({"kind": "dense", "dtype": "float32", "shape": [size]}, np.ones(size, np.float32))


def _tiles(name: str, rows: int, columns: int, bits: int, group_size: int, seed: int) -> RandomTensor:
    """Random codes; multipliers as large as int8 allows, scales such that a product keeps its input's size."""
    check_format(rows, columns, bits, group_size)
    random = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
    stored = np.frombuffer(random.bytes(stored_bytes(rows, columns, bits, group_size)), np.uint8).copy()
    panels, groups = -(-rows // PANEL), -(-columns // group_size)
    table = stored.reshape(panels, -1)
    most = 127 >> (bits - 1) if bits < 8 else 1
    spread = most * 2.0 ** (bits - 1) / np.sqrt(3)  # of a weight before its scale
    scale = np.float32(1 / (spread * np.sqrt(columns)))
    table[:, :64] = np.full(PANEL, scale, np.float32).view(np.uint8)
    table[:, 64 : 64 + groups * PANEL] = np.uint8(most)
    return RandomTensor(
        {"kind": "tiles", "rows": rows, "columns": columns, "bits": bits, "group_size": group_size,
         "activations": "int8"}, stored
    )  # fmt: skip
