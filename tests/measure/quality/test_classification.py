"""Accuracy and agreement against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.measure.quality.classification import agreement, correct


def test_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    logits, other, labels = random.random((50, 4)), random.random((50, 4)), random.integers(0, 4, 50)
    assert correct(logits, labels).mean() == metrics.accuracy_score(labels, logits.argmax(1))
    assert agreement(logits, other).mean() == metrics.accuracy_score(logits.argmax(1), other.argmax(1))
    assert agreement(logits, logits * 2).mean() == 1


def test_bad_input() -> None:
    for labels in ([0], [0.0, 1.0], [0, 2], [0, -1]):
        with pytest.raises(BadInput):
            correct(np.ones((2, 2)), labels)
    with pytest.raises(BadInput):
        correct(np.full((2, 2), np.nan), [0, 1])
    with pytest.raises(BadInput):
        agreement(np.ones((2, 2)), np.ones((2, 3)))
