"""BM25: the plain yardstick of word matching that a ranker must beat.

Knows words of texts. Knows nothing of models.

Source: Robertson and Zaragoza (2009), "The probabilistic relevance framework", eq. 3.15 with the inverse document
frequency of Lucene, which is never negative.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

_SATURATION, _LENGTH = 1.2, 0.75  # k1 and b as Lucene has them


class BM25:
    """An index of passages. Words are runs of letters and digits in lower case."""

    def __init__(self, passages: Sequence[str]) -> None:
        """Raises BadInput where there are no passages."""
        if not passages:
            raise BadInput("no passages to rank; give one or more")
        words = [Counter(_words(passage)) for passage in passages]
        lengths = np.array([count.total() for count in words], np.float64)
        norm = _SATURATION * (1 - _LENGTH + _LENGTH * lengths / max(float(lengths.mean()), 1e-9))
        found: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for row, counts in enumerate(words):
            for word, count in counts.items():
                found[word].append((row, count * (_SATURATION + 1) / (count + norm[row])))
        self._size = len(passages)
        self._rows = {word: np.array([row for row, _ in rows]) for word, rows in found.items()}
        self._weights = {
            word: np.array([weight for _, weight in rows])
            * math.log(1 + (self._size - len(rows) + 0.5) / (len(rows) + 0.5))
            for word, rows in found.items()
        }

    def scores(self, query: str) -> npt.NDArray[np.float64]:
        """Of each passage, (passages,); a word that the query has twice counts twice."""
        total = np.zeros(self._size)
        for word in _words(query):
            if word in self._rows:
                total[self._rows[word]] += self._weights[word]
        return total


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
