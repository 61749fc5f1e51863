"""A session: the same calls whatever runs below.

Knows tokenizers, tasks and batches. Knows nothing of how hidden states are computed: each backend says that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from ondevice.errors import BadInput
from ondevice.models.tasks import Floats, Task, pool, tokenize

Tokens = list[list[int]]


class Closing:
    """Something to be closed, or used in a `with` block."""

    def close(self) -> None:
        """Give back what it holds."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session(Closing, ABC):
    """A model that is ready to run. Close it, or use it in a `with` block.

    A backend implements `hidden` (for embeddings) and `logits` (for classification).
    """

    backend: str
    tokens_per_pass = 2048  # how many tokens are handed to the backend at once; bounds the working memory

    def __init__(self, tokenizer: Any, task: Task) -> None:
        self.tokenizer = tokenizer
        self.task = task
        self.closed = False

    def embed(self, texts: Sequence[str]) -> Floats:
        """Embeddings, float32 (texts, dimension); of unit length where the model normalises.

        Raises BadInput for an empty list or text, and where the model is not an embedding model.
        """
        self._must_be("embedding")
        rows: list[Floats | None] = [None] * len(texts)
        for indices, tokens in self._passes(texts):
            for index, hidden in zip(indices, self.hidden(tokens), strict=True):
                rows[index] = pool(hidden, self.task)
        return np.stack([row for row in rows if row is not None])

    def classify(self, texts: Sequence[str]) -> Floats:
        """Probability of each label, float32 (texts, labels); the names are `session.task.labels`."""
        self._must_be("classification")
        rows: list[Floats | None] = [None] * len(texts)
        for indices, tokens in self._passes(texts):
            logits = self.logits(tokens)
            spread = np.exp(logits - logits.max(axis=1, keepdims=True))
            for index, row in zip(indices, spread / spread.sum(axis=1, keepdims=True), strict=True):
                rows[index] = row.astype(np.float32)
        return np.stack([row for row in rows if row is not None])

    @abstractmethod
    def hidden(self, token_ids: Tokens) -> list[Floats]:
        """The last hidden states of each text, float32 (tokens, dimension)."""

    @abstractmethod
    def logits(self, token_ids: Tokens) -> Floats:
        """The class logits of each text, float32 (texts, labels)."""

    def close(self) -> None:
        """Give back what the session holds. A closed session raises BadInput when used."""
        self.closed = True

    def _must_be(self, kind: str) -> None:
        if self.closed:
            raise BadInput("this session is closed; open a new one")
        if self.task.kind != kind:
            verb = {"embedding": "embed", "classification": "classify"}[self.task.kind]
            raise BadInput(f"this is a model for {self.task.kind}; call {verb}() instead")

    def _passes(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Tokens]]:
        """Texts of similar length together, so that backends that pad lose little."""
        tokens = tokenize(self.tokenizer, texts, self.task.max_length)
        order = sorted(range(len(tokens)), key=lambda index: -len(tokens[index]))
        start = 0
        while start < len(order):
            fits = max(1, self.tokens_per_pass // len(tokens[order[start]]))
            chosen = order[start : start + fits]
            yield chosen, [tokens[index] for index in chosen]
            start += fits


def padded(token_ids: Tokens, pad: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Token ids and mask, int64 (texts, longest), for backends that need rectangles."""
    longest = max(map(len, token_ids))
    ids = np.full((len(token_ids), longest), pad, np.int64)
    mask = np.zeros((len(token_ids), longest), np.int64)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask
