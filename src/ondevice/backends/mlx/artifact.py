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
from ondevice.backends.dense import Floats, dense_weights
from ondevice.backends.mlx.session import MlxSession
from ondevice.models.tasks import Task


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> MlxSession:
    """A session on an artifact. MLX takes no number of threads: on Apple silicon it runs on the GPU.

    Agrees with torch on the same artifact: 1e-4 of the largest value where activations are float, cosine of
    embeddings at least 0.99 where they are int8 (their rounding is what differs).
    """
    weights, config = unpruned(dense_weights(artifact.tensors), artifact.config)
    tokenizer = Tokenizer.from_str(artifact.tokenizer_json)
    return MlxSession.from_weights(weights, config, tokenizer, Task.from_json(artifact.task))


def unpruned(
    weights: Mapping[str, Floats], config: Mapping[str, Any]
) -> tuple[dict[str, Floats], dict[str, Any]]:
    """(weights, config) of the same function with all layers equally wide: zeros where heads or neurons were cut.

    What is added multiplies by zero on its way out, so the result does not change; neither does the time become
    less than the unpruned model's.
    """
    hidden = int(config["hidden_size"])
    inner = max(
        (len(values) for name, values in weights.items() if name.endswith("intermediate.dense.weight")),
        default=0,
    )
    sizes = [  # name of a layer's weight or bias -> axis and size that it must have
        (re.compile(r"attention\.self\.(query|key|value)\.(weight|bias)$"), 0, hidden),
        (re.compile(r"attention\.output\.dense\.weight$"), 1, hidden),
        (re.compile(r"intermediate\.dense\.(weight|bias)$"), 0, inner),
        (re.compile(r"\d\.output\.dense\.weight$"), 1, inner),
    ]
    whole = dict(weights)
    for name, values in weights.items():
        for pattern, axis, size in sizes:
            if pattern.search(name) and values.shape[axis] < size:
                padding = [(0, 0)] * values.ndim
                padding[axis] = (0, size - values.shape[axis])
                whole[name] = np.pad(values, padding)
    return whole, {**config, "intermediate_size": inner}
