"""Quality of text: perplexity, bits a byte and divergence, exact match, ROUGE, edit distance.

Knows strings, tokens, logits and log-probabilities. Knows nothing of models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Overlap:
    """Of a candidate and a reference. precision: share of the candidate that is in the reference. recall: the
    other way round. f1: their harmonic mean. All in 0..1."""

    precision: float
    recall: float
    f1: float

    @classmethod
    def of(cls, shared: int, candidate: int, reference: int) -> Overlap:
        precision = shared / candidate if candidate else 0.0
        recall = shared / reference if reference else 0.0
        total = precision + recall
        return cls(precision, recall, 2 * precision * recall / total if total else 0.0)


def perplexity(log_probability: float, tokens: int) -> float:
    """exp of the mean surprise a token. log_probability: the sum of natural logarithms over `tokens` tokens."""
    return math.exp(-_checked(log_probability) / _counted(tokens, "tokens"))


def bits_per_byte(log_probability: float, size: int) -> float:
    """Bits that the model needs for a byte of text. log_probability: the sum of natural logarithms; size: bytes
    of the text in UTF-8. Unlike perplexity it does not depend on the tokenizer."""
    return -_checked(log_probability) / math.log(2) / _counted(size, "bytes")


def log_probabilities(logits: Floats, targets: Sequence[int]) -> npt.NDArray[np.float64]:
    """Natural logarithm of the probability that logits (tokens, vocabulary) give to one target each; (tokens,)."""
    if logits.ndim != 2 or len(logits) != len(targets):
        raise BadInput(f"logits of shape {logits.shape} say nothing of {len(targets)} targets")
    chosen = np.asarray(targets, np.int64)[:, None]
    return np.concatenate(
        [
            np.take_along_axis(_log_softmax(logits[rows]), chosen[rows], axis=1)[:, 0]
            for rows in _blocks(logits)
        ]
    )


def divergences(original: Floats, other: Floats) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence in nats of the next token's distribution from the original's, KL(original || other)
    (Kullback and Leibler 1951), at each token: (tokens,). Of logits (tokens, vocabulary)."""
    if original.ndim != 2 or original.shape != other.shape:
        raise BadInput(f"logits of shape {other.shape} cannot be compared with {original.shape}")
    parts = []
    for rows in _blocks(original):
        left, right = _log_softmax(original[rows]), _log_softmax(other[rows])
        parts.append((np.exp(left) * (left - right)).sum(axis=1))
    return np.concatenate(parts)


def exact_match(candidates: Sequence[str], references: Sequence[str]) -> npt.NDArray[np.float64]:
    """1 where the texts are equal, white space at their ends and its kind aside, else 0; (texts,)."""
    if len(candidates) != len(references) or not references:
        raise BadInput(f"{len(references)} references need as many candidates, not {len(candidates)}")
    pairs = zip(candidates, references, strict=True)
    return np.array([float(left.split() == right.split()) for left, right in pairs])


def rouge_n(candidate: str, reference: str, n: int = 1) -> Overlap:
    """ROUGE-N (Lin 2004): runs of n words that both have, each as often as both have it.

    Words are runs of a-z and 0-9 in lower case, without stemming, as in Google's rouge-score.
    """
    if n < 1:
        raise BadInput(f"n must be at least 1, not {n}")
    left, right = (_grams(_words(text), n) for text in (candidate, reference))
    return Overlap.of((left & right).total(), left.total(), right.total())


def rouge_l(candidate: str, reference: str) -> Overlap:
    """ROUGE-L (Lin 2004): the longest common subsequence of words of two texts, each as one sentence."""
    left, right = _words(candidate), _words(reference)
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for index, other in enumerate(right, 1):
            diagonal, row[index] = (
                row[index],
                diagonal + 1 if word == other else max(row[index], row[index - 1]),
            )
    return Overlap.of(row[-1], len(left), len(right))


def edit_distance(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """Levenshtein (1966): the fewest insertions, deletions and substitutions from one to the other.

    Of strings in characters, of lists in items: of words it is the numerator of the word error rate.
    """
    row = list(range(len(right) + 1))
    for number, item in enumerate(left, 1):
        diagonal, row[0] = row[0], number
        for index, other in enumerate(right, 1):
            diagonal, row[index] = (
                row[index],
                min(row[index] + 1, row[index - 1] + 1, diagonal + (item != other)),
            )
    return row[-1]


def _blocks(logits: Floats) -> list[slice]:
    """Rows at a time, so that a large vocabulary in float64 stays small."""
    size = max(1, (1 << 22) // logits.shape[1])
    return [slice(start, start + size) for start in range(0, len(logits), size)]


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[index : index + n]) for index in range(len(words) - n + 1))


def _checked(log_probability: float) -> float:
    if not log_probability <= 0 or not math.isfinite(log_probability):
        raise BadInput(f"a log-probability is finite and at most 0, not {log_probability}")
    return log_probability


def _counted(number: int, unit: str) -> int:
    if number < 1:
        raise BadInput(f"{number} {unit} hold no text; give 1 or more")
    return number
