"""Cosine against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.measure.quality.embedding import cosine


def test_against_scikit_learn() -> None:
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    a, b = np.random.default_rng(0).standard_normal((2, 30, 8)).astype(np.float32)
    assert cosine(a, b) == pytest.approx(np.diag(pairwise.cosine_similarity(a, b)), abs=1e-6)
    assert cosine(a, 3 * a) == pytest.approx(1)


def test_bad_input() -> None:
    for other in (np.ones((2, 3)), np.zeros((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(BadInput):
            cosine(np.ones((2, 2)), other)
