"""Nested matrices: each width is a prefix of the next, and bytes come back as they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.numerics.nested import NestedMatrix, SignPlane, plane_bytes
from ondevice.numerics.tiles import TiledMatrix, quantize_tiled


def random_nested(rows, columns, bits, planes, group_size, seed=0) -> NestedMatrix:
    random = np.random.default_rng(seed)
    base = quantize_tiled(random.standard_normal((rows, columns), np.float32), bits, group_size)
    shape = base.multipliers.shape
    return NestedMatrix(
        base,
        tuple(
            SignPlane(
                random.integers(0, 2, (rows, columns), np.uint8),
                random.integers(0, 128, shape).astype(np.int8),
            )
            for _ in range(planes)
        ),
    )


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from([32, 64, 128]), st.integers(0, 9))
def test_bytes_come_back(rows, columns, group_size, seed):
    plane = random_nested(rows, columns, 2, 1, group_size, seed).planes[0]
    stored = plane.to_bytes(group_size)
    assert stored.nbytes == plane_bytes(rows, columns, group_size)
    back = SignPlane.from_bytes(stored, rows, columns, group_size)
    np.testing.assert_array_equal(back.codes, plane.codes)
    np.testing.assert_array_equal(back.multipliers, plane.multipliers)
    with pytest.raises(BadInput, match="bytes for a plane"):
        SignPlane.from_bytes(stored[:-1], rows, columns, group_size)


@pytest.mark.parametrize(("bits", "planes"), [(2, 2), (5, 3), (7, 1)])
def test_a_width_is_the_one_before_and_signs(bits, planes):
    nested = random_nested(20, 70, bits, planes, 32)
    assert nested.widths == tuple(range(bits, bits + planes + 1))
    np.testing.assert_array_equal(nested.dequantize(bits), nested.base.dequantize())
    for number, width in enumerate(nested.widths[1:]):
        step = nested.integers(width) - nested.integers(width - 1)
        plane = nested.planes[number]
        spread = np.repeat(plane.multipliers.astype(int), 32, axis=1)[:, :70]
        np.testing.assert_array_equal(np.abs(step), spread)
        np.testing.assert_array_equal(step > 0, (plane.codes == 1) & (spread > 0))


def test_the_base_is_an_ordinary_matrix_in_tiles():
    base = random_nested(33, 64, 2, 2, 32).base
    back = TiledMatrix.from_bytes(base.to_bytes(), 33, 64, 2, 32)
    np.testing.assert_array_equal(back.dequantize(), base.dequantize())


def test_bad_input():
    nested = random_nested(16, 64, 2, 2, 32)
    with pytest.raises(BadInput, match="5 bits are not stored; there are: 2, 3, 4"):
        nested.dequantize(5)
    with pytest.raises(BadInput, match="2 to 8"):
        NestedMatrix(nested.base, ())
    with pytest.raises(BadInput, match="do not fit"):
        NestedMatrix(nested.base, random_nested(16, 32, 2, 1, 32).planes)
    damaged = nested.planes[0].to_bytes(32)
    damaged[0] = 200
    with pytest.raises(BadInput, match="negative"):
        SignPlane.from_bytes(damaged, 16, 64, 32)
