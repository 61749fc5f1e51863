"""A product shared between flash and processor is the integer product."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.hardware.ecc import OutlierECC
from ondevice.hardware.engines.flash import FlashMatrix


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 90), st.sampled_from([2, 8, 32]), st.floats(0, 1), st.integers(0, 99)
)
def test_the_product_is_exact(rows: int, columns: int, width: int, alpha: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-127, 128, (rows, columns)).astype(np.int8)
    x = rng.integers(-128, 128, columns).astype(np.int8)
    stored = FlashMatrix.store(matrix, OutlierECC(256), width, alpha)
    assert (stored.multiply(x) == matrix.astype(np.int64) @ x.astype(np.int64)).all()


def test_damaged_outliers_do_not_change_the_product() -> None:
    matrix = np.zeros((16, 16), np.int8)
    matrix[3, 4] = 99
    stored = FlashMatrix.store(matrix, OutlierECC(256), 16, 0.5)
    bad = stored.pages.copy()
    bad[0, 3 * 16 + 4] = -100
    x = np.ones(16, np.int8)
    assert (replace(stored, pages=bad).multiply(x) == matrix @ x).all()


def test_what_does_not_fit_is_refused() -> None:
    matrix = np.zeros((4, 4), np.int8)
    with pytest.raises(BadInput, match="do not fill"):
        FlashMatrix.store(matrix, OutlierECC(256), 24, 0.5)
    with pytest.raises(BadInput, match="share"):
        FlashMatrix.store(matrix, OutlierECC(256), 16, 1.5)
    with pytest.raises(BadInput, match="inputs"):
        FlashMatrix.store(matrix, OutlierECC(256), 16, 0.5).multiply(np.zeros(5, np.int8))
