"""What a task is: how texts become token ids, and how hidden states become the answer.

Knows tokenizers and pooling, in NumPy; needs no torch, so that a finished artifact runs without it.
Knows nothing of architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]
Pooling = Literal["mean", "cls", "max"]


@dataclass(frozen=True)
class Task:
    """What a model is for.

    kind: "embedding" (one unit vector a text) or "classification" (one score a label).
    pooling, normalize: how an embedding is made of hidden states, as sentence-transformers stores it.
    max_length: longest input in tokens, special tokens included; longer texts are cut.
    labels: names of the classes, in the order of the logits.
    """

    kind: Literal["embedding", "classification"]
    pooling: Pooling = "mean"
    normalize: bool = True
    max_length: int = 512
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"labels": list(self.labels)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Task:
        return cls(**(fields | {"labels": tuple(fields.get("labels", ()))}))


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text (special tokens included, cut to max_length, no padding).

    tokenizer: a `tokenizers.Tokenizer`. Raises BadInput for an empty list, an empty text or a non-string.
    """
    if isinstance(texts, str):
        raise BadInput("expected a list of texts, got one string; wrap it in a list: [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"text {index} is {type(text).__name__}, not a string")
        if not text.strip():
            raise BadInput(f"text {index} is empty; leave it out")
    if not texts:
        raise BadInput("no texts given")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def pool(hidden: Floats, task: Task) -> Floats:
    """One embedding (dimension,) from the hidden states (tokens, dimension) of one text."""
    if task.pooling == "cls":
        pooled = hidden[0]
    elif task.pooling == "max":
        pooled = hidden.max(axis=0)
    else:
        pooled = hidden.mean(axis=0)
    if task.normalize:
        pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
    return np.asarray(pooled, dtype=np.float32)
