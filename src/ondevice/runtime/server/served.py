"""What is served, and within which limits.

Knows engines, tokenizers and templates by name. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.runtime.chat import ChatTemplate
from ondevice.runtime.decode.grammar import Grammars
from ondevice.runtime.engine import Engine


@dataclass(frozen=True)
class Writer:
    """A language model. ends: tokens that end an answer."""

    engine: Engine
    tokenizer: Any
    template: ChatTemplate | None
    ends: frozenset[int]

    def grammars(self) -> Grammars:
        """What holds its answers to a form."""
        return Grammars(self.tokenizer, self.engine.decoder.vocabulary, self.ends)


@dataclass(frozen=True)
class Embedder:
    """An embedding model. embed: float32 (texts, dimension) of texts; count: how many tokens they have."""

    embed: Callable[[Sequence[str]], npt.NDArray[np.float32]]
    count: Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Served:
    """What is served. name: the model's, as clients ask for it."""

    name: str
    model: Writer | Embedder


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. slots: texts at once; queue: texts that may wait. seconds: of one answer,
    body_seconds of its request's arrival, head_seconds of that one's head, end_seconds of running answers when the
    server is told to stop. tokens: most tokens of an answer, also where none are asked for. texts: most of one
    request for embeddings."""

    body: int = 1_000_000
    slots: int = 64
    queue: int = 256
    seconds: float = 600.0
    body_seconds: float = 20.0
    head_seconds: float = 10.0
    end_seconds: float = 30.0
    tokens: int = 1024
    texts: int = 2048
