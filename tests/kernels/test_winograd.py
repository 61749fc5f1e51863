"""Transforms of Winograd's minimal filtering, exactly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.kernels.winograd import errors, transformed, transforms


@pytest.mark.parametrize(
    "outputs, taps", [(n, k) for n, k in product(range(1, 7), range(2, 8)) if n + k <= 11]
)
def test_transforms_are_the_correlation_exactly(outputs: int, taps: int) -> None:
    """Property: A [(G g) * (B d)] is sum_j g_j d_(i + j) for every g and d, so each product of one g and one d counts
    once where i + j is the input and nowhere else."""
    out, filters, inputs = transforms(outputs, taps)
    for i, j, source in product(range(outputs), range(taps), range(outputs + taps - 1)):
        total = sum(out[i][p] * filters[p][j] * inputs[p][source] for p in range(outputs + taps - 1))
        assert total == (source == i + j)
    assert errors(outputs, taps) == 0


def test_filters_are_transformed_along_both_axes(rng: np.random.Generator) -> None:
    """Oracle: the two products with G, one filter at a time."""
    weights = rng.standard_normal((3, 2, 3, 5), dtype=np.float32)
    down, along = (np.array(transforms(n, k)[1], float) for n, k in ((4, 3), (2, 5)))
    got = transformed(weights, (4, 2))
    for out, channel in product(range(3), range(2)):
        want = down @ weights[out, channel] @ along.T
        np.testing.assert_allclose(got[:, channel, out], want.reshape(-1), rtol=1e-5, atol=1e-6)


def test_too_many_points_are_refused_with_the_reason() -> None:
    with pytest.raises(BadInput, match=r"cancel in float32: take at most 4 outputs for 7 taps"):
        transformed(np.ones((1, 1, 7, 7), np.float32), (5, 5))
    with pytest.raises(BadInput, match="no outputs"):
        transforms(0, 3)
