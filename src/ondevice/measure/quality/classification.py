"""How often a classifier is right, and how often it says what another says.

Knows logits and labels. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput


def correct(logits: npt.ArrayLike, labels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """1 where the highest logit is the label, else 0; (texts,). Its mean is the accuracy.

    logits: (texts, classes). labels: (texts,) class indices. Raises BadInput for NaN and wrong shapes.
    """
    scores, truth = _checked(logits), np.asarray(labels)
    if truth.shape != scores.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        raise BadInput(f"{scores.shape[0]} texts need as many labels, integers, not {truth.shape}")
    if truth.min() < 0 or truth.max() >= scores.shape[1]:
        raise BadInput(f"labels must lie in 0..{scores.shape[1] - 1}, not {truth.min()}..{truth.max()}")
    return np.asarray(scores.argmax(axis=1) == truth, dtype=np.float64)


def agreement(original: npt.ArrayLike, fitted: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """1 where both choose the same class, else 0; (texts,). original, fitted: logits (texts, classes)."""
    a, b = _checked(original), _checked(fitted)
    if a.shape != b.shape:
        raise BadInput(f"logits must be of one shape, not {a.shape} and {b.shape}")
    return np.asarray(a.argmax(axis=1) == b.argmax(axis=1), dtype=np.float64)


def _checked(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise BadInput(f"logits must be finite, (texts, classes), not of shape {scores.shape}")
    return scores
