"""How long a pass over so many tokens takes here, and guessing with so many heads: measured on the decoder itself.

Knows a decoder and heads. Knows nothing of what the times are for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ondevice.runtime.decode.heads import Heads, HeadsDraft
from ondevice.runtime.decode.speculative import MOST, TreePace
from ondevice.runtime.decoder import Decoder

_ROWS = (1, MOST + 1, MOST + 2, 16, 32, 64)  # a kernel changes after the eighth
_PAST = 64  # tokens


@dataclass(frozen=True)
class Passes:
    """rows, seconds: of passes that were tried, between which a line is drawn. guesses: seconds of 1, 2, … heads."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    guesses: tuple[float, ...]

    def of(self, rows: int) -> float:
        """Seconds of a pass over so many tokens; beyond the largest that was tried in proportion."""
        if rows > self.rows[-1]:
            return self.seconds[-1] * rows / self.rows[-1]
        return float(np.interp(rows, self.rows, self.seconds))

    def guessing(self, heads: int) -> float:
        """Seconds that so many heads take for their guesses."""
        return self.guesses[heads - 1] if heads else 0.0


def measure_passes(decoder: Decoder, heads: Heads, *, repeats: int = 3) -> Passes:
    """The least of some repeats of each, with a short past: a second, or longer where weights are streamed."""
    sequence = decoder.cache.sequence()
    past = min(_PAST, decoder.context // 4)
    decoder.read([(sequence, [0] * past)])
    tried = [rows for rows in _ROWS if past + rows <= min(decoder.context, decoder.cache.free_tokens)]

    def best(call: Callable[[], object]) -> float:
        found = []
        for _ in range(repeats):
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
        return min(found)

    def read(rows: int) -> None:
        [states] = decoder.read([(sequence, [0] * rows)], every=True)
        decoder.logits(states if decoder.streams else states[: MOST + 1])
        sequence.rollback(past)

    seconds = [best(lambda rows=rows: read(rows)) for rows in tried]  # type: ignore[misc]
    sequence.free()
    guesses = []
    for count in range(1, len(heads.layers) + 1):
        some = heads.first(count)
        draft = HeadsDraft(some, decoder, TreePace(count, rates=np.full((count, 1), 0.9)))  # a chain
        guesser = draft.begin()
        guesser.see(np.ones(decoder.shape.hidden, np.float32))
        guesses.append(best(lambda: guesser.guess([0], count)))  # noqa: B023
    return Passes(tuple(tried), tuple(seconds), tuple(guesses))
