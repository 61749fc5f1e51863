"""A trigram model of tokens: the plain yardstick that a language model must beat.

Knows token ids. Knows nothing of texts, tokenizers or networks.

Source: interpolated modified Kneser-Ney; Chen and Goodman (1999), "An empirical study of smoothing techniques for
language modeling", section 3 and eq. 27 (discounts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Level:
    """Counts of n-grams of one order. grams: sorted ids. kept: count less discount over the context's total.
    contexts: sorted ids. back: the share of each context that goes to the lower order."""

    grams: Ids
    kept: Floats
    contexts: Ids
    back: Floats

    @classmethod
    def of(cls, grams: Ids, counts: Ids, vocabulary: int) -> _Level:
        contexts, where = np.unique(grams // vocabulary, return_inverse=True)
        totals = np.bincount(where, weights=counts)
        discount = _discounts(counts)[np.minimum(counts, 3)]
        back = np.bincount(where, weights=discount) / totals
        return cls(grams, (counts - discount) / totals[where], contexts, back)

    def interpolate(self, context: Ids, token: Ids, vocabulary: int, lower: Floats) -> Floats:
        kept = _look_up(self.grams, self.kept, context * vocabulary + token, 0.0)
        return kept + _look_up(self.contexts, self.back, context, 1.0) * lower


class Trigram:
    """Interpolated modified Kneser-Ney over three tokens; probabilities of every context sum to one."""

    def __init__(self, ids: npt.ArrayLike, vocabulary: int) -> None:
        """Count a stream of token ids (n,), each in 0..vocabulary-1. Raises BadInput for fewer than three."""
        stream = _checked(ids, vocabulary)
        self.vocabulary = vocabulary
        triples, counts = np.unique(_joined(stream, 3, vocabulary), return_counts=True)
        # Below the top order an n-gram counts once for each token that it was seen to follow. The first two
        # tokens follow nothing, and would be missing from the lower orders.
        pairs, after = np.unique(
            np.concatenate([triples % vocabulary**2, _joined(stream[:2], 2, vocabulary)]), return_counts=True
        )
        ones, spread = np.unique(np.concatenate([pairs % vocabulary, stream[:1]]), return_counts=True)
        self._levels = [
            _Level.of(grams, number.astype(np.int64), vocabulary)
            for grams, number in ((ones, spread), (pairs, after), (triples, counts))
        ]

    def probabilities(self, ids: npt.ArrayLike) -> Floats:
        """Of each token of a stream from the third on, given the two before it; (n - 2,)."""
        stream = _checked(ids, self.vocabulary)
        token, last = stream[2:], stream[1:-1]
        found = np.full(len(token), 1 / self.vocabulary)
        for level, context in zip(
            self._levels, (np.zeros_like(last), last, stream[:-2] * self.vocabulary + last), strict=True
        ):
            found = level.interpolate(context, token, self.vocabulary, found)
        return found

    def log_probability(self, ids: npt.ArrayLike) -> float:
        """Sum of the natural logarithms of `probabilities`."""
        return float(np.log(self.probabilities(ids)).sum())


def _discounts(counts: Ids) -> Floats:
    """What is taken from a count of 0, 1, 2, and 3 or more; Chen and Goodman's eq. 27.

    Where a text is too small for the estimate, 0.5 for each.
    """
    n = [int((counts == number).sum()) for number in (1, 2, 3, 4)]
    if not all(n):
        return np.array([0.0, 0.5, 0.5, 0.5])
    y = n[0] / (n[0] + 2 * n[1])
    found = [number - (number + 1) * y * n[number] / n[number - 1] for number in (1, 2, 3)]
    return np.array([0.0, *(min(max(value, 0.1), number - 0.1) for number, value in enumerate(found, 1))])


def _joined(stream: Ids, order: int, vocabulary: int) -> Ids:
    """Every run of `order` tokens as one number."""
    joined = np.zeros(max(len(stream) - order + 1, 0), np.int64)
    for index in range(order):
        joined = joined * vocabulary + stream[index : index + len(joined)]
    return joined


def _look_up(keys: Ids, values: Floats, wanted: Ids, missing: float) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], missing)


def _checked(ids: npt.ArrayLike, vocabulary: int) -> Ids:
    stream = np.asarray(ids)
    if stream.ndim != 1 or len(stream) < 3 or not np.issubdtype(stream.dtype, np.integer):
        raise BadInput(f"a trigram needs a stream of three token ids or more, not of shape {stream.shape}")
    if vocabulary > 2**20 or stream.min() < 0 or stream.max() >= vocabulary:
        raise BadInput(f"token ids must lie in 0..{vocabulary - 1} and the vocabulary be at most {2**20}")
    return stream.astype(np.int64)
