"""Trees of guesses: which continuations are checked together in one pass, and how many tokens that should give.

Knows tokens, and how often the candidates of each depth are right. Knows nothing of models or of where candidates come
from.

Source: Cai et al. 2024, "Medusa", sections 2.1.2 (tree attention) and 2.3.3 (which nodes pay: greedily the one whose
path is likeliest, the best of its size where depths are right independently).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Rates = npt.NDArray[np.float64]
Path = tuple[int, ...]  # of a node: the rank of its token among the candidates of each depth
LODGED = 16  # nodes: a tree of no more is kept in the free places of its text's last page
LARGEST = 63  # nodes: with the token that they follow, what one page of the cache keeps


@dataclass(frozen=True)
class Tree:
    """Guesses below a text's last token, in preorder.

    depths: of each token, 1 right after the text; a token follows the last one before it that is one less deep.
    ranks: of each among the candidates of its depth. Raises BadInput for an orphan, which follows none.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.depths) == len(self.ranks):
            raise BadInput("a tree has a depth and a rank for each token")
        for number, (before, depth) in enumerate(pairwise((0, *self.depths))):
            if not 1 <= depth <= before + 1:
                raise BadInput(
                    f"token {number} of the tree is an orphan: it is {depth} deep after one {before} deep"
                )

    @classmethod
    def chain(cls, tokens: Sequence[int]) -> Tree:
        """Guesses that follow one another."""
        return cls(tuple(tokens), tuple(range(1, len(tokens) + 1)), (0,) * len(tokens))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def depth(self) -> int:
        return max(self.depths, default=0)

    @property
    def branched(self) -> bool:
        """Whether two tokens are equally deep."""
        return self.depth < len(self)

    def after(self, node: int) -> list[int]:
        """The nodes right below one; -1 is the text."""
        depth = 1 if node < 0 else self.depths[node] + 1
        found = []
        for number in range(node + 1, len(self)):
            if self.depths[number] < depth:
                break
            if self.depths[number] == depth:
                found.append(number)
        return found

    def cut(self, depth: int) -> Tree:
        """What of it is not deeper."""
        kept = [number for number, each in enumerate(self.depths) if each <= depth]
        return self if len(kept) == len(self) else self._of(kept)

    def trunk(self) -> Tree:
        """Its first path: what is left where there is no room for branches."""
        path = (number for number, depth in enumerate(self.depths) if depth == number + 1)
        return self._of(list(path))

    def _of(self, numbers: Sequence[int]) -> Tree:
        parts = (tuple(each[number] for number in numbers) for each in (self.tokens, self.depths, self.ranks))
        return Tree(*parts)


@dataclass(frozen=True)
class Shape:
    """Which candidates a tree is made of. Raises BadInput for a path whose beginning is none of them."""

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        known = {(), *self.paths}
        for path in self.paths:
            if not path or path[:-1] not in known:
                raise BadInput(f"node {list(path)} is an orphan: {list(path[:-1])} is not in the tree")
        object.__setattr__(self, "paths", tuple(sorted(set(self.paths))))  # which is preorder

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def depth(self) -> int:
        return max(map(len, self.paths), default=0)

    def widths(self) -> list[int]:
        """Candidates that each depth needs."""
        widths = [0] * self.depth
        for path in self.paths:
            widths[len(path) - 1] = max(widths[len(path) - 1], path[-1] + 1)
        return widths

    def filled(self, candidates: Sequence[Sequence[int]]) -> Tree:
        """The tree of these candidates, likeliest first, of each depth."""
        return Tree(
            tuple(int(candidates[len(path) - 1][path[-1]]) for path in self.paths),
            tuple(map(len, self.paths)),
            tuple(path[-1] for path in self.paths),
        )


def grow(rates: Rates, nodes: int) -> list[tuple[Path, float]]:
    """The nodes of the best tree of so many, in the order in which they are added: (path, its chance of being right).

    rates: (depths, ranks), how often a candidate is right where those before it were. The first k of them are the best
    tree of k nodes. Fewer where no other has any chance.
    """
    if rates.ndim != 2 or rates.min(initial=0) < 0 or rates.max(initial=0) > 1:
        raise BadInput("rates of acceptance are (depths, ranks) from 0 to 1")
    found: list[tuple[Path, float]] = []
    open_: list[tuple[float, Path]] = []

    def below(path: Path, chance: float) -> None:
        if len(path) < len(rates):
            for rank, rate in enumerate(rates[len(path)].tolist()):
                if chance * rate > 0:
                    heapq.heappush(open_, (-chance * rate, (*path, rank)))

    below((), 1.0)
    while open_ and len(found) < nodes:
        negative, path = heapq.heappop(open_)
        found.append((path, -negative))
        below(path, -negative)
    return found


def expected_tokens(grown: Sequence[tuple[Path, float]]) -> list[float]:
    """Tokens of a pass that checks the first 0, 1, 2, … of these nodes, one among them that needs no guess."""
    return [1.0, *(1.0 + np.cumsum([chance for _, chance in grown])).tolist()]
