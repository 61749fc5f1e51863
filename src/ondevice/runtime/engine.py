"""Writing: texts go on token by token, several of them in one batch.

Knows a decoder, its cache and how tokens are chosen. Knows nothing of tokenizers: prompts and answers are ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from ondevice.errors import BadInput
from ondevice.runtime.decode.sampling import Choice, Sampler, Sampling
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.kv.paged import CachedSequence, CacheFull

_CHUNK = 512  # tokens of a prompt that are read in one step


@dataclass(frozen=True)
class Written:
    """One token of a text. text: which (as `add` numbered it). finish: None, or why it was the last: "stop" for a
    stop token, "length" for the most that was asked for or that fits."""

    text: int
    choice: Choice
    finish: str | None


@dataclass
class _Text:
    number: int
    tokens: list[int]
    sampler: Sampler
    left: int
    stops: frozenset[int]
    sequence: CachedSequence
    read: int = 0  # tokens that the cache holds
    prompt: int = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = len(self.tokens)


class Engine:
    """Continuous batching: texts join and leave between steps. A text's tokens do not depend on the others.

    chunk: most tokens of prompts read in a step, so that running texts do not wait long for a new one.
    """

    def __init__(self, decoder: Decoder, *, chunk: int = _CHUNK) -> None:
        if chunk < 1:
            raise BadInput(f"chunk must be 1 or more, not {chunk}")
        self.decoder, self._chunk = decoder, chunk
        self._numbers = count()
        self._texts: dict[int, _Text] = {}

    @property
    def running(self) -> int:
        """Texts that are not finished."""
        return len(self._texts)

    def add(
        self,
        prompt: Sequence[int],
        *,
        sampling: Sampling | None = None,
        limit: int = 256,
        stops: Sequence[int] = (),
    ) -> int:
        """Begin a text; its number. limit: most tokens to write. stops: tokens that end it.

        Raises BadInput for an empty prompt, one that leaves no room in the context, and a limit below 1.
        """
        if not len(prompt):
            raise BadInput("the prompt has no tokens")
        if limit < 1:
            raise BadInput(f"limit must be 1 or more, not {limit}")
        if len(prompt) >= self.decoder.context:
            raise BadInput(
                f"the prompt has {len(prompt)} tokens, the context holds {self.decoder.context} with the answer; "
                "shorten it or open the model with a longer context"
            )
        number = next(self._numbers)
        self._texts[number] = _Text(
            number, list(prompt), (sampling or Sampling()).sampler(), limit, frozenset(stops),
            self.decoder.cache.sequence(),
        )  # fmt: skip
        return number

    def cancel(self, number: int) -> None:
        """End a text and free its pages; nothing where it has ended already."""
        text = self._texts.pop(number, None)
        if text is not None:
            text.sequence.free()

    def step(self) -> list[Written]:
        """Read and write once: each text whose prompt is read gets its next token.

        Raises CacheFull where the cache has no room for even one text.
        """
        batch, room = [], self._chunk
        for text in self._texts.values():
            part = text.tokens[text.read : text.read + room] if text.read < text.prompt else text.tokens[-1:]
            if not part:
                continue
            if text.read < text.prompt:
                room -= len(part)
            try:
                text.sequence.reserve(len(part))
            except CacheFull:
                continue  # waits until another is finished
            batch.append((text, part))
        if not batch:
            if self._texts:
                raise CacheFull(self.decoder.cache.tokens)
            return []
        logits = self.decoder.step([(text.sequence, part) for text, part in batch])
        written = []
        for (text, part), row in zip(batch, logits, strict=True):
            text.read += len(part)
            if text.read == len(text.tokens):
                written.append(self._write(text, text.sampler.choose(row[0], text.tokens)))
        return written

    def stream(
        self,
        prompt: Sequence[int],
        *,
        sampling: Sampling | None = None,
        limit: int = 256,
        stops: Sequence[int] = (),
    ) -> Iterator[Choice]:
        """One text, token by token; the stop token is not among them. Ending the iteration early frees it."""
        number = self.add(prompt, sampling=sampling, limit=limit, stops=stops)
        try:
            while number in self._texts:
                for written in self.step():
                    if written.text == number and written.finish != "stop":
                        yield written.choice
        finally:
            self.cancel(number)

    def _write(self, text: _Text, choice: Choice) -> Written:
        text.tokens.append(choice.token)
        text.left -= 1
        finish = None
        if choice.token in text.stops:
            finish = "stop"
        elif text.left == 0 or len(text.tokens) >= self.decoder.context:
            finish = "length"
        if finish:
            self.cancel(text.number)
        return Written(text.number, choice, finish)
