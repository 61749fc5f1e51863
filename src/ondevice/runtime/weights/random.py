"""Decoders of published shapes with random quantised weights, for work on speed and memory: neither depends on values.

Knows configurations and the tiled layout. Nothing is kept in float: a model of billions of weights is made in the bytes
that it takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Artifact, Contents, StoredTensor, write
from ondevice.errors import BadInput
from ondevice.numerics.tiles import PANEL, check_format, stored_bytes
from ondevice.runtime.weights.shapes import SHAPES, find_shape, matrices, vectors

__all__ = ["SHAPES", "RandomTensor", "random_decoder", "write_random"]
Bits = int | Callable[[str], int]


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
    shape: str | Mapping[str, Any], *, bits: Bits = 4, group_size: int = 32, seed: int = 0
) -> tuple[dict[str, Any], dict[str, RandomTensor]]:
    """(configuration, tensors) of a published shape, or of a configuration with the same fields: every matrix in
    tiles with int8 activations (of 16 bits: plain float16), norms of ones, biases of zeros. bits: of all
    matrices, or of each by its name.

    Raises BadInput for an unknown shape.
    """
    config = find_shape(shape) if isinstance(shape, str) else dict(shape)
    sizes = {"model.embed_tokens": (config["vocab_size"], config["hidden_size"])}
    if not config["tie_word_embeddings"]:
        sizes["lm_head"] = sizes["model.embed_tokens"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        sizes |= {f"model.layers.{layer}.{name}": each for name, each in matrices(config).items()}
        for name, size in vectors(config).items():
            tensors[f"model.layers.{layer}.{name}"] = _vector(size, 0.0 if name.endswith("bias") else 1.0)
    for name, (rows, columns) in sizes.items():
        width = bits(name) if callable(bits) else bits
        random = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
        tensors[f"{name}.weight"] = (
            _halves(random, rows, columns)
            if width == 16
            else _tiles(random, rows, columns, width, group_size)
        )
    tensors["model.norm.weight"] = _vector(config["hidden_size"], 1.0)
    return config, tensors


def write_random(
    folder: str | Path, shape: str | Mapping[str, Any], *, bits: Bits = 4, group_size: int = 32, seed: int = 0
) -> Artifact:
    """An artifact of `random_decoder`, for work on what lies on storage. It has no tokenizer: tokens are numbers."""
    config, tensors = random_decoder(shape, bits=bits, group_size=group_size, seed=seed)
    stored = {name: StoredTensor(tensor.format, tensor.array) for name, tensor in tensors.items()}
    return write(folder, Contents(config, "{}", {"kind": "language"}, stored))


def _vector(size: int, value: float) -> RandomTensor:
    values = np.full(size, value, np.float32)
    return RandomTensor({"kind": "dense", "dtype": "float32", "shape": [size]}, values)


def _halves(random: np.random.Generator, rows: int, columns: int) -> RandomTensor:
    """Evenly spread values such that a product keeps its input's size."""
    values = (np.linspace(-1, 1, 1 << 8) * np.sqrt(3 / columns)).astype(np.float16)
    codes = np.frombuffer(random.bytes(rows * columns), np.uint8)
    return RandomTensor(
        {"kind": "dense", "dtype": "float16", "shape": [rows, columns]}, values[codes].reshape(rows, columns)
    )


def _tiles(random: np.random.Generator, rows: int, columns: int, bits: int, group_size: int) -> RandomTensor:
    """Random codes; multipliers as large as int8 allows, scales such that a product keeps its input's size."""
    check_format(rows, columns, bits, group_size)
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
