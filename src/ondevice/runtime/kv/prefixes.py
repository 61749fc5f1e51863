"""Texts that were read before: a new one that begins like one of them need not be read from its start.

Knows cached sequences and their tokens. Knows nothing of engines or models.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ondevice.kernels import PAGE
from ondevice.runtime.kv.paged import CachedSequence


class Prefixes:
    """The `most` sequences that were used last. They hold pages of the cache until they are dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[int, ...], CachedSequence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Of the pages that they hold, each counted once."""
        sequences = list(self._kept.values())  # a copy: another thread may be asking
        pages = {page for sequence in sequences for page in list(sequence._pages)}
        return len(pages) * sequences[0]._cache.page_bytes if pages else 0

    def keep(self, tokens: Sequence[int], sequence: CachedSequence) -> None:
        """Remember a sequence, which is no longer the caller's. tokens: all that it holds."""
        sequence.rollback(sequence.length)  # gives back pages that were reserved and not used
        key = tuple(tokens)
        for other in [each for each in self._kept if key[: len(each)] == each]:
            self._kept.pop(other).free()
        if not key or not self._most or any(each[: len(key)] == key for each in self._kept):
            sequence.free()
            return
        self._kept[key] = sequence
        while len(self._kept) > self._most:
            self.drop()

    def find(self, tokens: Sequence[int]) -> tuple[CachedSequence, int] | None:
        """A sequence that begins like these tokens, and how many are the same; None where none does."""
        best = max(self._kept, key=lambda each: common(each, tokens), default=None)
        if best is None or not (size := common(best, tokens)):
            return None
        self._kept.move_to_end(best)
        return self._kept[best], size

    def release(self, sequence: CachedSequence, size: int) -> bool:
        """Let go of a sequence that was found, to whom goes on from all of its `size` tokens; False where it holds more
        or is none of these."""
        key = next((tokens for tokens, each in self._kept.items() if each is sequence), None)
        if key is None or len(key) != size:
            return False
        del self._kept[key]
        return True

    def latest(self) -> tuple[tuple[int, ...], CachedSequence] | None:
        """The one that was used last, and its tokens; it stays what it is."""
        return next(reversed(self._kept.items()), None)

    def drop(self) -> bool:
        """Forget the one that was used longest ago; False where there is none."""
        if not self._kept:
            return False
        self._kept.popitem(last=False)[1].free()
        return True


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common from the start."""
    size, at = min(len(one), len(other)), 0
    while at < size and list(one[at : at + PAGE]) == list(other[at : at + PAGE]):  # many tokens at a time
        at += PAGE
    return next((place for place in range(at, min(at + PAGE, size)) if one[place] != other[place]), size)
