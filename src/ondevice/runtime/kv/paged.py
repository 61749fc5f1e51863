"""The key-value cache of a decoder: sequences that share one pool of pages.

Knows pages, who uses them and what they take. Knows nothing of models or of what is written into a page.

Source: Kwon et al. 2023, "Efficient Memory Management for Large Language Model Serving with PagedAttention".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels import PAGE, CacheDtype, LayerCache, Places, move_tokens


class CacheFull(BadInput):
    """No page of the cache is free. tokens: how many it holds in all."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"the cache of {tokens} tokens is full; shorten the text or give it more memory")
        self.tokens = tokens


class PagedCache:
    """Room for `tokens` tokens, in whole pages, of all sequences together.

    heads: key-value heads. bytes_used, most_bytes and nbytes: what pages in use, the most that were in use at once, and
    all pages take.
    """

    def __init__(
        self, tokens: int, layers: int, heads: int, head_size: int, dtype: CacheDtype = "float16"
    ) -> None:
        if tokens < 1 or layers < 1:
            raise BadInput(f"a cache needs a token and a layer, not {tokens} and {layers}")
        pages = -(-tokens // PAGE)
        self.layers = [LayerCache.empty(pages, heads, head_size, dtype) for _ in range(layers)]
        self._users = [0] * pages  # sequences that hold each page
        self._free = list(range(pages))[::-1]
        self.most_bytes = 0

    @staticmethod
    def bytes_of(tokens: int, layers: int, heads: int, head_size: int, dtype: CacheDtype = "float16") -> int:
        """What a cache of so many tokens takes."""
        return -(-tokens // PAGE) * layers * heads * LayerCache.head_bytes(head_size, dtype)

    @property
    def dtype(self) -> CacheDtype:
        return self.layers[0].dtype

    @property
    def page_bytes(self) -> int:
        """Of one page in all layers."""
        return sum(layer.pool[0].nbytes for layer in self.layers)

    @property
    def tokens(self) -> int:
        """That fit into all pages."""
        return len(self._users) * PAGE

    @property
    def nbytes(self) -> int:
        return len(self._users) * self.page_bytes

    @property
    def bytes_used(self) -> int:
        return (len(self._users) - len(self._free)) * self.page_bytes

    @property
    def free_tokens(self) -> int:
        """Tokens that fit into the pages that nobody uses."""
        return len(self._free) * PAGE

    def sequence(self) -> CachedSequence:
        """A new, empty sequence."""
        return CachedSequence(self)

    @contextmanager
    def scratch(self, tokens: int) -> Iterator[npt.NDArray[np.int32]]:
        """Slots for so many tokens that most likely are forgotten again, while the block runs. Raises CacheFull."""
        pages = -(-tokens // PAGE)
        if pages > len(self._free):
            raise CacheFull(self.tokens)
        taken = [self._take() for _ in range(pages)]
        try:
            yield (np.repeat(taken, PAGE) * PAGE + np.tile(np.arange(PAGE), pages))[:tokens].astype(np.int32)
        finally:
            for page in taken:
                self._give(page)

    def _take(self) -> int:
        if not self._free:
            raise CacheFull(self.tokens)
        page = self._free.pop()
        self.most_bytes = max(self.most_bytes, self.bytes_used)
        self._users[page] = 1
        return page

    def _share(self, page: int) -> None:
        self._users[page] += 1

    def _give(self, page: int) -> None:
        self._users[page] -= 1
        if self._users[page] == 0:
            self._free.append(page)

    def _own(self, page: int) -> int:
        """This page, or a copy of it where others use it too."""
        if self._users[page] == 1:
            return page
        copy = self._take()
        for layer in self.layers:
            layer.pool[copy] = layer.pool[page]
        self._give(page)
        return copy


@dataclass(frozen=True)
class Branches:
    """The last tokens of a sequence's part as a tree below the token before them.

    depths: of each, 1 next to that token; in preorder, so that a token follows the last one before it that is one less
    deep. slots: int32, one each, of `PagedCache.scratch`: where the cache keeps what they leave until the sequence
    takes some of them. Raises BadInput for a token that follows none.
    """

    depths: Sequence[int] = ()
    slots: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def __post_init__(self) -> None:
        if len(self.slots) != len(self.depths):
            raise BadInput(f"{len(self.depths)} branches need a slot each, not {len(self.slots)}")
        for before, depth in zip([0, *self.depths], self.depths, strict=False):
            if not 1 <= depth <= before + 1:
                raise BadInput(f"a branch {depth} deep follows nothing; those before it reach {before}")

    def __len__(self) -> int:
        return len(self.depths)

    @property
    def depth(self) -> int:
        return max(self.depths, default=0)


class CachedSequence:
    """One text in a cache. length: tokens that it remembers."""

    def __init__(self, cache: PagedCache) -> None:
        self._cache = cache
        self._pages: list[int] = []
        self.length = 0

    def reserve(self, tokens: int) -> None:
        """Make room for so many more tokens. Raises CacheFull, and then nothing has changed."""
        wanted = -(-(self.length + tokens) // PAGE) - len(self._pages)
        shared = bool(
            tokens and self.length % PAGE and self._cache._users[self._pages[self.length // PAGE]] > 1
        )
        if max(wanted, 0) + shared > len(self._cache._free):
            raise CacheFull(self._cache.tokens)
        if shared:
            at = self.length // PAGE
            self._pages[at] = self._cache._own(self._pages[at])
        self._pages += [self._cache._take() for _ in range(wanted)]

    def spare(self, tokens: int) -> npt.NDArray[np.int32]:
        """Slots behind the next so many tokens, on pages that it has already."""
        places = np.arange(self.length + tokens, len(self._pages) * PAGE)
        return (np.array(self._pages, np.int32)[places // PAGE] * PAGE + places % PAGE).astype(np.int32)

    def advance(self, tokens: int) -> None:
        """So many tokens were written."""
        self.length += tokens

    def take(self, slots: npt.NDArray[np.int32]) -> None:
        """Go on with what branches of the step before left in these slots, each following the one before."""
        places = np.arange(self.length, self.length + len(slots))
        to = np.array(self._pages, np.int32)[places // PAGE] * PAGE + places % PAGE
        move_tokens(self._cache.layers, slots, to.astype(np.int32))
        self.length += len(slots)

    def mark(self) -> int:
        """A place to come back to."""
        return self.length

    def rollback(self, mark: int) -> None:
        """Forget what came after a mark. Raises BadInput for a mark that lies ahead."""
        if not 0 <= mark <= self.length:
            raise BadInput(f"cannot go back to {mark} of {self.length} tokens")
        kept = -(-mark // PAGE)
        for page in self._pages[kept:]:
            self._cache._give(page)
        del self._pages[kept:]
        self.length = mark

    def fork(self) -> CachedSequence:
        """Another sequence with the same past. Pages are shared until one of the two writes into them."""
        self.rollback(self.length)  # pages that were reserved and not used stay ours to give back
        other = CachedSequence(self._cache)
        other._pages, other.length = list(self._pages), self.length
        for page in self._pages:
            self._cache._share(page)
        return other

    def free(self) -> None:
        """Give all pages back; the sequence is empty afterwards."""
        self.rollback(0)


def places(batch: Iterable[tuple[CachedSequence, int]], branches: Sequence[Branches] | None = None) -> Places:
    """Where the next tokens of each sequence belong: (sequence, how many), room for them reserved. branches: the last
    ones of each that are branches, if any."""
    rows: Sequence[tuple[CachedSequence, int]] = list(batch)
    trees = branches or [Branches()] * len(rows)
    positions, slots = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    for (each, count), tree in zip(rows, trees, strict=True):
        plain = count - len(tree)
        positions.append(np.arange(each.length, each.length + plain, dtype=np.int32))
        positions.append(np.asarray(tree.depths, np.int32) + np.int32(each.length + plain - 1))
        slots += [np.full(plain, -1, np.int32), tree.slots]
    tables = np.zeros((len(rows), max((len(each._pages) for each, _ in rows), default=0)), np.int32)
    for row, (each, _) in enumerate(rows):
        tables[row, : len(each._pages)] = each._pages
    return Places(
        np.repeat(np.arange(len(rows), dtype=np.int32), [count for _, count in rows]),
        np.concatenate(positions),
        tables,
        np.concatenate(slots) if any(map(len, trees)) else None,
    )
