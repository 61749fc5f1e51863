"""An artifact on MLX: the dense weights that it stands for, in float32.

Knows what pruning leaves and what MLX's network wants. MLX multiplies in float whatever the artifact says of
activations; `export.py` keeps the weights quantised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from ondevice.artifact import Artifact
from ondevice.backends.dense import dense_weights
from ondevice.backends.mlx.session import MlxSession
from ondevice.models.tasks import Task

_TO_HIDDEN = re.compile(r"attention\.self\.(query|key|value)\.(up\.)?(weight|bias)$")
_FROM_HIDDEN = re.compile(r"attention\.output\.dense\.(down\.)?weight$")
_TO_INNER = re.compile(r"intermediate\.dense\.(up\.)?(weight|bias)$")
_FROM_INNER = re.compile(r"\.\d+\.output\.dense\.(down\.)?weight$")


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> MlxSession:
    """A session on an artifact. MLX takes no number of threads: on Apple silicon it runs on the GPU.

    Agrees with torch on the same artifact: to 5e-5 in an embedding's values where activations are float; where
    they are int8, MLX lacks their rounding (cosine of embeddings about 0.997 with MiniLM).
    """
    weights = dense_weights(artifact.tensors)
    inner = widest({name: values.shape for name, values in weights.items()})
    hidden = int(artifact.config["hidden_size"])
    for name, values in weights.items():
        shape = whole_shape(name, values.shape, hidden, inner)
        if shape != values.shape:
            weights[name] = np.pad(values, [(0, to - of) for to, of in zip(shape, values.shape, strict=True)])
    config = artifact.config | {"intermediate_size": inner}
    tokenizer = Tokenizer.from_str(artifact.tokenizer_json)
    return MlxSession.from_weights(weights, config, tokenizer, Task.from_json(artifact.task))


def whole_shape(name: str, shape: tuple[int, ...], hidden: int, inner: int) -> tuple[int, ...]:
    """The shape of a weight or bias in a network of equal layers, none of them pruned.

    MLX's network has `hidden` values for the heads and `inner` neurons in every layer. Where some were cut, zeros
    in their place multiply by zero on their way out, so the result is the same; nothing is gained in time.
    """
    if _TO_HIDDEN.search(name):
        return (max(shape[0], hidden), *shape[1:])
    if _TO_INNER.search(name):
        return (max(shape[0], inner), *shape[1:])
    if _FROM_HIDDEN.search(name):
        return (shape[0], max(shape[1], hidden))
    return (shape[0], max(shape[1], inner)) if _FROM_INNER.search(name) else shape


def widest(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The most neurons that any layer has."""
    return max((shape[0] for name, shape in shapes.items() if _TO_INNER.search(name)), default=0)


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor's values, by name, from their formats alone."""
    return {
        name: (
            tuple(tensor.format["shape"])
            if tensor.format["kind"] == "dense"
            else (int(tensor.format["rows"]), int(tensor.format["columns"]))
        )
        for name, tensor in tensors.items()
    }
