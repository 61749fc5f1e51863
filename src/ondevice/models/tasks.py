"""What a task is: how texts become token ids, and how hidden states become the answer.

Knows tokenizers and pooling, in NumPy; needs no torch, so that a finished artifact runs without it.
Knows nothing of architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]
Pooling = Literal["mean", "cls", "max"]
_ENCODER_FIELDS = ["pooling", "normalize", "labels"]


@dataclass(frozen=True)
class Task:
    """What a model is for.

    kind: "embedding" (one unit vector a text), "classification" (one score a label) or "language" (the next token).
    pooling, normalize: how an embedding is made of hidden states, as sentence-transformers stores it.
    max_length: longest input in tokens, special tokens included; longer texts are cut.
    labels: names of the classes, in the order of the logits.
    ends: of a language model, the tokens that end a text. template: its chat template (Jinja), "" for none.
    special_tokens: the strings that the template may name, such as {"bos_token": "<s>"}.
    """

    kind: Literal["embedding", "classification", "language"]
    pooling: Pooling = "mean"
    normalize: bool = True
    max_length: int = 512
    labels: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    template: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields that say something of this kind of task."""
        named = ["kind", "max_length"]
        named += ["ends", "template", "special_tokens"] if self.kind == "language" else _ENCODER_FIELDS
        return {
            name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in named
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Task:
        tuples = {name: tuple(fields.get(name, ())) for name in ("labels", "ends")}
        return cls(**(fields | tuples))


def tokenize(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    """Token ids of each text (special tokens included, cut to max_length, no padding).

    tokenizer: a `tokenizers.Tokenizer`. Raises BadInput for an empty list, an empty text or a non-string.
    """
    _check(texts)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


@dataclass(frozen=True)
class Window:
    """A stretch of text as a language model reads it. ids: its tokens. given: how many at the start are not judged,
    being special or the first. nbytes: UTF-8 bytes of the text that the others stand for."""

    ids: list[int]
    given: int
    nbytes: int

    @property
    def judged(self) -> int:
        """Tokens whose probability is asked for."""
        return len(self.ids) - self.given


def windows(tokenizer: Any, texts: Sequence[str], length: int) -> list[Window]:
    """Texts cut into windows of at most `length` tokens, each begun by the special tokens that begin a text.

    Windows in which nothing would be judged are left out. Raises as `tokenize` does.
    """
    _check(texts)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    first = tokenizer.encode(texts[0])
    words = next((place for place, special in enumerate(first.special_tokens_mask) if not special), 0)
    prefix: list[int] = first.ids[:words]
    step = length - len(prefix)
    if step < 2:
        raise BadInput(f"windows of {length} tokens leave no room for text; give more")
    found = []
    for text, encoding in zip(
        texts, tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True
    ):
        ids, offsets = encoding.ids, encoding.offsets
        for start in range(0, len(ids) - 1, step):
            end = min(start + step, len(ids))
            if end - start > 1:
                judged = text[offsets[start + 1][0] : offsets[end - 1][1]]
                found.append(Window(prefix + ids[start:end], words + 1, len(judged.encode())))
    return found


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


def _check(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise BadInput("expected a list of texts, got one string; wrap it in a list: [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadInput(f"text {index} is {type(text).__name__}, not a string")
        if not text.strip():
            raise BadInput(f"text {index} is empty; leave it out")
    if not texts:
        raise BadInput("no texts given")
