"""Texts on their way through the engine, and what of them one step reads.

Knows tokens, what chooses them, and where their past is kept. Knows nothing of the order in which texts take turns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ondevice.runtime.decode.constraint import Constraint
from ondevice.runtime.decode.sampling import Sampler
from ondevice.runtime.decode.speculative import Guesser
from ondevice.runtime.decode.tree import Tree
from ondevice.runtime.kv.paged import Branches, CachedSequence

Floats = npt.NDArray[np.float32]


@dataclass
class Text:
    """source: of an encoder-decoder: read whole, before the tokens. read: tokens that the cache holds."""

    number: int
    tokens: list[int]
    sampler: Sampler
    left: int
    stops: frozenset[int]
    constraint: Constraint | None
    sequence: CachedSequence
    source: list[int] | None
    read: int = 0
    guesser: Guesser | None = None

    @property
    def unread(self) -> int:
        return len(self.tokens) - self.read

    @property
    def writing(self) -> bool:
        """Whether only its last token is to be read, and not as the first of all."""
        return self.read > 0 and self.unread == 1


@dataclass
class Part:
    """What of a text is read in a step. tree: guesses behind its tokens; branches: where they are kept aside.
    wrote: whether it was writing already. states: what its last token and the tree left. row: of the states, the one
    to go on from; -1 where that is done. path: guesses that were right."""

    text: Text
    tokens: list[int]
    tree: Tree
    wrote: bool
    branches: Branches = field(default_factory=Branches)
    states: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    row: int = 0
    path: list[int] = field(default_factory=list)
