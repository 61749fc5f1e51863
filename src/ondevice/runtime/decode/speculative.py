"""Guessing what comes next, so that several tokens are checked in one pass over the weights.

Knows texts as tokens, where guesses come from, and how many are worth their time. Knows nothing of how they are
checked: `runtime.engine` reads guesses as if they were text, chooses every token from the model's own logits as it
would have without them, and goes on with those that were right. So a text is the same with and without, in every
token, also where it is drawn: to take a guess when the draw says so is the rejection rule for a guess that is certain
of itself.

Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", for the rule; Saxena 2023,
"Prompt Lookup Decoding", for guesses from the text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.runtime.decode.tree import LARGEST, Path, Rates, Shape, Tree, expected_tokens, grow
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.kv.paged import CacheFull

Floats = npt.NDArray[np.float32]
MOST = 7  # guesses that follow one another: with the token before them, rows whose logits are had at once


class Guesser(Protocol):
    """Guesses for one text."""

    def guess(self, tokens: Sequence[int], most: int) -> Tree:
        """At most so many tokens that may follow. tokens: those of the last call, some more behind them."""
        ...

    def see(self, state: Floats) -> None:
        """The model's last state, (hidden,), that it chose the last token from."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Draft(Protocol):
    """Where guesses come from."""

    def begin(self) -> Guesser:
        """For a new text."""
        ...


@dataclass(frozen=True)
class Lookup:
    """What followed the last tokens when they stood in the text before, the longest such run first.

    longest, shortest: tokens that must be the same.
    """

    longest: int = 4
    shortest: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise BadInput(f"a run of {self.shortest} to {self.longest} tokens cannot be looked up")

    def begin(self) -> Guesser:
        return _Finder(range(self.longest, self.shortest - 1, -1))


class _Finder:
    def __init__(self, sizes: range) -> None:
        self._ends: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in sizes}
        self._known = 0  # tokens whose runs are indexed, but for the run that the text ends with

    def see(self, state: Floats) -> None:
        pass

    def guess(self, tokens: Sequence[int], most: int) -> Tree:
        for end in range(self._known, len(tokens)):
            for size, ends in self._ends.items():
                if end >= size:
                    ends[tuple(tokens[end - size : end])] = end
        self._known = len(tokens)
        for size, ends in self._ends.items():
            if len(tokens) >= size and (at := ends.get(tuple(tokens[-size:]))) is not None:
                return Tree.chain(tokens[at : at + most])
        return Tree.chain([])

    def close(self) -> None:
        self._ends.clear()


class SmallModel:
    """A smaller model of the same vocabulary writes ahead, greedily. Raises BadInput for another vocabulary."""

    def __init__(self, decoder: Decoder, vocabulary: int) -> None:
        if decoder.vocabulary != vocabulary:
            raise BadInput(
                f"the draft writes {decoder.vocabulary} tokens and the model {vocabulary}; take a draft with the same "
                "tokenizer"
            )
        self._decoder = decoder

    def begin(self) -> Guesser:
        return _Writer(self._decoder)


class _Writer:
    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._sequence = decoder, decoder.cache.sequence()
        self._read: list[int] = []

    def see(self, state: Floats) -> None:
        pass

    def guess(self, tokens: Sequence[int], most: int) -> Tree:
        same = 0
        while same < min(len(self._read), len(tokens) - 1) and self._read[same] == tokens[same]:
            same += 1
        self._sequence.rollback(same)
        unread, guesses = list(tokens[same:]), list[int]()
        most = min(most, self._decoder.context - len(tokens))
        while len(guesses) < most:
            try:
                [logits] = self._decoder.step([(self._sequence, unread)])
            except CacheFull:
                break  # other texts have its room; what is guessed so far is as good
            guesses.append(int(logits[0].argmax()))
            unread = guesses[-1:]
        self._read = [*tokens, *guesses][: self._sequence.length]
        return Tree.chain(guesses)

    def close(self) -> None:
        self._sequence.free()


@dataclass
class Pace:
    """How many guesses are worth their time, from how often they were right and how long steps took.

    Tokens do not depend on it. right, tried: by how far ahead a guess was. The time of a step is taken as a line over
    the tokens that it reads, one up to eight, which kernels treat alike, and one beyond; old observations fade.
    """

    most: int = MOST
    right: list[float] = field(default_factory=list)
    tried: list[float] = field(default_factory=list)
    _sums: list[list[float]] = field(
        default_factory=lambda: [[0.0] * 5, [0.0] * 5]
    )  # of short steps, and of others
    _turn: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.most <= MOST:
            raise BadInput(f"guess 1 to {MOST} tokens ahead, not {self.most}")
        # as if one of two guesses had been right: none is known yet
        self.right, self.tried = [1.0] * self.most, [2.0] * self.most

    @property
    def expected(self) -> list[float]:
        """Tokens of a step that reads so many guesses, 0 and up."""
        total, chance, found = 1.0, 1.0, [1.0]
        for right, tried in zip(self.right, self.tried, strict=True):
            chance *= right / tried
            total += chance
            found.append(total)
        return found

    def guesses(self, texts: int = 1) -> int:
        """How many to ask for next, where so many texts are written side by side."""
        self._turn += 1
        best = self._best(texts)
        if self._turn % 16 == 0:  # steps of one length say nothing of others
            return self._other(best)
        return best

    def _other(self, best: int) -> int:
        return self.most if self._turn % 32 else 1

    def _best(self, texts: int) -> int:
        """So many that most tokens a second come out; those whose time is not known are left out."""
        speeds = {}
        for n, tokens in enumerate(self.expected):
            if seconds := self._seconds(texts * (1 + n)):
                speeds[n] = tokens / seconds
        return max(speeds, key=lambda n: speeds[n]) if len(speeds) > 1 else min(self.most, MOST)

    def _seconds(self, rows: int) -> float | None:
        """Of a step over so many tokens; None where none like it was seen."""
        count, total, seconds, squares, both = self._sums[rows > MOST + 1]
        if count < 1:
            return None
        spread = squares * count - total * total
        slope = max(0.0, (both * count - total * seconds) / spread) if spread > 1e-6 * count * count else 0.0
        return max(1e-9, (seconds + slope * (rows * count - total)) / count)

    def judged(self, guessed: int, right: int) -> None:
        """Of one step's guesses, so many were right, the first ones."""
        for n in range(min(guessed, right + 1)):
            self.right[n] = 0.95 * self.right[n] + (n < right)
            self.tried[n] = 0.95 * self.tried[n] + 1.0

    def observed(self, tree: Tree, path: Sequence[int]) -> None:
        """Of a tree, these nodes were right, each after the one before."""
        self.judged(len(tree), len(path))

    def timed(self, rows: int, seconds: float) -> None:
        """A step over so many tokens took so long."""
        seen = (1.0, float(rows), seconds, float(rows * rows), rows * seconds)
        which = rows > MOST + 1
        self._sums[which] = [0.98 * old + new for old, new in zip(self._sums[which], seen, strict=True)]


@dataclass
class TreePace(Pace):
    """How many nodes are worth their time, and which, from how often candidates of each depth and rank were right.

    rates: (depths, ranks), what is known before; it counts as so many observations. most: nodes. fixed: so many
    always. Tokens do not depend on any of it.
    """

    rates: Rates = field(default_factory=lambda: np.full((1, 1), 0.5))
    fixed: bool = False
    _grown: list[tuple[Path, float]] = field(default_factory=list)
    _right: Rates = field(default_factory=lambda: np.zeros((1, 1)))
    _tried: Rates = field(default_factory=lambda: np.zeros((1, 1)))

    def __post_init__(self) -> None:
        if not 1 <= self.most <= LARGEST:
            raise BadInput(f"a tree has 1 to {LARGEST} nodes, not {self.most}")
        known = 100.0
        self._right, self._tried = self.rates * known, np.full(self.rates.shape, known)
        self._grow()

    @property
    def expected(self) -> list[float]:
        return expected_tokens(self._grown)

    def guesses(self, texts: int = 1) -> int:
        return self.most if self.fixed else super().guesses(texts)

    def _other(self, best: int) -> int:
        return min(self.most, 2 * best + 2) if self._turn % 32 else best // 2

    def shape(self, nodes: int) -> Shape:
        """Of the best tree of so many nodes."""
        return Shape(tuple(path for path, _ in self._grown[:nodes]))

    def observed(self, tree: Tree, path: Sequence[int]) -> None:
        for node in (-1, *path):
            for number in tree.after(node):
                at = tree.depths[number] - 1, tree.ranks[number]
                self._right[at] += number in path
                self._tried[at] += 1.0
        if self._turn % 64 == 0:
            self._grow()

    def _grow(self) -> None:
        self.rates = self._right / self._tried
        self._grown = grow(self.rates, self.most)
        keep = np.minimum(1.0, 1000.0 / self._tried)  # old observations fade
        self._right, self._tried = self._right * keep, self._tried * keep


@dataclass
class Speculation:
    """For an engine: where guesses come from and how many. passes: steps that checked guesses or could have, tokens:
    what they wrote, of all texts since the start."""

    draft: Draft
    pace: Pace = field(default_factory=Pace)
    passes: int = 0
    tokens: int = 0

    def judged(self, tree: Tree, path: Sequence[int], wrote: int) -> None:
        """One text's step over a tree, of which these nodes were right, wrote so many tokens."""
        self.pace.observed(tree, path)
        self.passes += 1
        self.tokens += wrote

    @property
    def tokens_per_pass(self) -> float:
        return self.tokens / self.passes if self.passes else 0.0
