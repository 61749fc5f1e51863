"""Tokens become text as they come, up to a stop string.

Knows tokenizers. Knows nothing of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ondevice.errors import BadInput
from ondevice.runtime.decode.sampling import Choice


@dataclass(frozen=True)
class Piece:
    """What one token adds. text: may be empty, where a character needs more tokens. logprob: the token's own.
    others: the likeliest tokens in its place, as text, and their own."""

    text: str
    token: int
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


class Spelling:
    """The text of one answer.

    tokenizer: a `tokenizers.Tokenizer`. prompt: its tokens, which decide how the answer's first ones are spelt.
    stop: strings that end the text and are not part of it. Raises BadInput for stop strings that are none.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        from tokenizers.decoders import DecodeStream

        if isinstance(stop, str) or not all(isinstance(each, str) and each for each in stop):
            raise BadInput("stop must be a list of strings that are not empty")
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._stream = DecodeStream(ids=list(prompt), skip_special_tokens=True)
        self._held: list[Piece] = []  # their text may be the beginning of a stop string
        self.stopped = False

    def add(self, choice: Choice) -> list[Piece]:
        """The pieces that are certain now. After a stop string `stopped` is True and nothing more comes."""
        text = self._stream.step(self._tokenizer, choice.token) or ""
        others = tuple((str(self._tokenizer.decode([token])), logprob) for token, logprob in choice.others)
        self._held.append(Piece(text, choice.token, choice.logprob, others))
        held = "".join(piece.text for piece in self._held)
        at = min((place for each in self._stop if (place := held.find(each)) >= 0), default=-1)
        if at >= 0:
            self.stopped = True
            pieces, self._held = _cut(self._held, at), []
            return pieces
        if any(held.endswith(each[:size]) for each in self._stop for size in range(1, len(each))):
            return []
        return self.rest()

    def rest(self) -> list[Piece]:
        """What is held back, when no more tokens come."""
        pieces, self._held = self._held, []
        return pieces


def _cut(pieces: Sequence[Piece], size: int) -> list[Piece]:
    """The first `size` characters of pieces."""
    cut = []
    for piece in pieces:
        if size <= 0:
            break
        cut.append(replace(piece, text=piece.text[:size]))
        size -= len(piece.text)
    return cut
