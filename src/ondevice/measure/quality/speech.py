"""How good speech technology is: word and character error rate, equal error rate, mel-cepstral distortion.

Knows texts, scores and frames. Knows nothing of sound, models or tokenizers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput


@dataclass(frozen=True)
class Errors:
    """An alignment of the fewest edits, counted. reference: units in the reference."""

    substitutions: int
    deletions: int
    insertions: int
    reference: int

    @property
    def edits(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Edits per unit of the reference; above 1 where there are more edits than units."""
        return self.edits / self.reference

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference + other.reference,
        )


def align(reference: Sequence[object], hypothesis: Sequence[object]) -> Errors:
    """The fewest substitutions, deletions and insertions that turn reference into hypothesis (Levenshtein 1966).

    Where several alignments are as short, the one with most substitutions is counted.
    """
    # Each cell holds (edits, deletions and insertions, substitutions, deletions, insertions) of two prefixes' best.
    above = [(column, column, 0, 0, column) for column in range(len(hypothesis) + 1)]
    for row, wanted in enumerate(reference, 1):
        line = [(row, row, 0, row, 0)]
        for column, got in enumerate(hypothesis, 1):
            edits, shifts, swapped, left, added = above[column - 1]
            wrong = int(wanted != got)
            kept = (edits + wrong, shifts, swapped + wrong, left, added)
            edits, shifts, swapped, left, added = above[column]
            dropped = (edits + 1, shifts + 1, swapped, left + 1, added)
            edits, shifts, swapped, left, added = line[column - 1]
            line.append(min(kept, dropped, (edits + 1, shifts + 1, swapped, left, added + 1)))
        above = line
    _, _, substitutions, deletions, insertions = above[-1]
    return Errors(substitutions, deletions, insertions, len(reference))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The errors of each text in words, split at white space. Their sum's rate is the word error rate.

    Texts are compared as they are: bring case and punctuation to one form first. Raises BadInput for lists of
    different length and for a reference without words.
    """
    return [align(*pair) for pair in _pairs(references, hypotheses)]


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[Errors]:
    """The errors of each text in characters, runs of white space as one space."""
    return [align(" ".join(wanted), " ".join(got)) for wanted, got in _pairs(references, hypotheses)]


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits of all texts over words of all references (WER)."""
    return sum(word_errors(references, hypotheses), Errors(0, 0, 0, 0)).rate


def character_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits of all texts over characters of all references (CER)."""
    return sum(character_errors(references, hypotheses), Errors(0, 0, 0, 0)).rate


def equal_error_rate(scores: npt.ArrayLike, same: npt.ArrayLike) -> tuple[float, float]:
    """(rate, threshold): where as many of the same are refused as of the others are accepted (EER).

    scores: (trials,), higher where more alike. same: (trials,) booleans. A trial is accepted at a score of the
    threshold or more. Between two thresholds the curve is a straight line, as in ROC analysis (Fawcett 2006).
    Raises BadInput unless there are trials of both kinds and all scores are finite.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(same, np.bool_)
    if values.ndim != 1 or values.shape != truth.shape or not np.isfinite(values).all():
        raise BadInput(
            f"scores and truth must be finite and of one shape (trials,): {values.shape}, {truth.shape}"
        )
    if truth.all() or not truth.any():
        raise BadInput("an equal error rate needs trials of the same and of others")
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # of each run of equal scores
    accepted = np.concatenate([[0], np.cumsum(~truth[order])[last]]) / np.sum(~truth)
    refused = 1 - np.concatenate([[0], np.cumsum(truth[order])[last]]) / np.sum(truth)
    thresholds = np.concatenate([[math.inf], values[order][last]])
    after = int(np.argmax(accepted >= refused))
    before = max(after - 1, 0)
    gap = (refused[before] - accepted[before]) + (accepted[after] - refused[after])
    share = (refused[before] - accepted[before]) / gap if gap else 0.0
    rate = accepted[before] + share * (accepted[after] - accepted[before])
    return float(rate), float(thresholds[after])


def mel_cepstral_distortion(reference: npt.ArrayLike, other: npt.ArrayLike, *, warp: bool = False) -> float:
    """Mean distance of mel cepstra in dB, 10 / ln 10 * sqrt(2 * sum of squared differences) (Kubichek 1993).

    reference, other: natural-log cepstra (frames, coefficients) by an orthonormal DCT; the first, loudness, is
    left out. warp: align frames by dynamic time warping (steps of 1 either way or both), and mean over its
    path; without it both need as many frames. Raises BadInput for shapes that do not fit.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or first.shape[1] < 2:
        raise BadInput(f"cepstra are (frames, coefficients), not {first.shape} and {second.shape}")
    if not len(first) or not len(second) or (not warp and len(first) != len(second)):
        raise BadInput(f"{len(first)} and {len(second)} frames; pass warp=True to align them")
    first, second = first[:, 1:], second[:, 1:]
    if not warp:
        return float(np.mean(_decibels(np.sum((first - second) ** 2, axis=1))))
    squares = np.sum((first[:, None] - second[None]) ** 2, axis=2)
    return _warped(_decibels(squares))


def real_time_factor(seconds: float, audio_seconds: float) -> float:
    """Time that processing took over the length of the sound (RTF); below 1 is faster than it is spoken."""
    if not seconds >= 0 or not audio_seconds > 0:
        raise BadInput(f"{seconds} s for {audio_seconds} s of sound; both must be positive")
    return seconds / audio_seconds


def _decibels(squares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # An orthonormal DCT's coefficients are sqrt(bands / 2) times those of the cosine series that Kubichek's
    # factor 2 stands for; the customary formula is applied to the orthonormal ones all the same.
    return np.asarray(10 / math.log(10) * np.sqrt(2 * squares))


def _warped(cost: npt.NDArray[np.float64]) -> float:
    """The mean cost along the cheapest path from corner to corner."""
    rows, columns = cost.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    steps = np.zeros((rows + 1, columns + 1), np.int64)
    total[0, 0] = 0
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            come = ((row - 1, column - 1), (row - 1, column), (row, column - 1))
            best = min(come, key=lambda place: float(total[place]))
            total[row, column] = cost[row - 1, column - 1] + total[best]
            steps[row, column] = steps[best] + 1
    return float(total[rows, columns] / steps[rows, columns])


def _pairs(references: Sequence[str], hypotheses: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    if isinstance(references, str) or isinstance(hypotheses, str) or len(references) != len(hypotheses):
        raise BadInput("references and hypotheses must be lists of as many texts")
    pairs = [(wanted.split(), got.split()) for wanted, got in zip(references, hypotheses, strict=True)]
    if not pairs:
        raise BadInput("no texts given")
    for index, (wanted, _) in enumerate(pairs):
        if not wanted:
            raise BadInput(f"reference {index} has no words; leave it out")
    return pairs
