"""What engines that write are asked for, and what comes of it, whichever they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Generation:
    """first: seconds from the prompt to the first token. rest: seconds of all later tokens together.

    tokens: their ids, where the engine tells them without being slower for it.
    """

    first: float
    rest: float
    tokens: tuple[int, ...]


class DecoderEngine(Protocol):
    """A model that is ready to write."""

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        """Greedily, exactly so many tokens; nothing is kept of earlier prompts."""

    def close(self) -> None:
        """Give back what it holds."""
