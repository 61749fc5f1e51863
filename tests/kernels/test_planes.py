"""Products by plane: those of the whole matrix exactly, whatever the order, the threads and the rows beside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import Kernels, available
from ondevice.kernels.planes import NestedShape, PlaneProducts
from ondevice.numerics.nested import NestedMatrix, SignPlane
from ondevice.numerics.tiles import quantize_tiled

SHAPES = st.tuples(
    st.integers(1, 70), st.integers(1, 300), st.sampled_from([(2, 2), (3, 1), (5, 3), (7, 1)]),
    st.sampled_from([32, 64, 128]),
)  # fmt: skip


def _nested(rows, columns, widths, group_size, seed=0):
    random, (bits, planes) = np.random.default_rng(seed), widths
    base = quantize_tiled(random.standard_normal((rows, columns), np.float32), bits, group_size)
    signs = [random.integers(0, 2, (rows, columns), np.uint8) for _ in range(planes)]
    scales = [random.integers(0, 60, base.multipliers.shape).astype(np.int8) for _ in range(planes)]
    nested = NestedMatrix(base, tuple(map(SignPlane, signs, scales)))
    stored = [base.to_bytes(), *(plane.to_bytes(group_size) for plane in nested.planes)]
    return nested, stored, NestedShape(rows, columns, bits, group_size, planes)


def _product(kernels, shape, stored, x, order=None):
    products = PlaneProducts(kernels)
    rounded = products.round(x, shape.group_size)
    sums = products.sums(len(x), shape)
    for step in order or range(len(stored)):
        products.add(shape, step, stored[step], rounded, len(x), sums)
    return products.finish(shape, stored[0], rounded, sums)


@pytest.mark.parametrize("name", available())
@settings(max_examples=12, deadline=None)
@given(SHAPES, st.integers(1, 11), st.integers(0, 99))
def test_planes_add_up_to_the_matrix(name, shape, tokens, seed):
    nested, stored, form = _nested(*shape, seed)
    x = np.random.default_rng(seed).standard_normal((tokens, shape[1]), np.float32)
    out = _product(Kernels(2, name), form, stored, x)
    steps = np.abs(x).max(axis=1, keepdims=True) / 127
    rounded = np.rint(x / steps).astype(np.float64)
    expected = rounded @ nested.dequantize(nested.widths[-1]).T.astype(np.float64) * steps
    size = np.abs(rounded) @ np.abs(nested.dequantize(nested.widths[-1])).T * steps
    # a value that lies between two integers may be rounded to either
    assert np.all(
        np.abs(out - expected)
        <= size * 1e-5 + np.abs(steps) * np.abs(nested.dequantize(form.widths[-1])).max() * 1.01
    )


@pytest.mark.parametrize("name", available())
def test_neither_order_nor_threads_nor_company_change_a_bit(name):
    _, stored, shape = _nested(50, 160, (2, 2), 32)
    x = np.random.default_rng(1).standard_normal((13, 160)).astype(np.float32)
    whole = _product(Kernels(1, name), shape, stored, x)
    np.testing.assert_array_equal(_product(Kernels(3, name), shape, stored, x, [2, 0, 1]), whole)
    for row in range(13):
        alone = _product(Kernels(1, name), shape, stored, np.ascontiguousarray(x[row : row + 1]))
        np.testing.assert_array_equal(alone[0], whole[row])
    if name != "reference":  # the integers are those of NumPy
        np.testing.assert_array_equal(_product(Kernels(1, "reference"), shape, stored, x), whole)


def test_tokens_of_lower_width_take_fewer_planes():
    nested, stored, shape = _nested(32, 64, (2, 2), 32)
    x = np.random.default_rng(2).standard_normal((3, 64)).astype(np.float32)
    products = PlaneProducts(Kernels(1))
    rounded, sums = products.round(x, 32), products.sums(3, shape)
    for step, tokens in enumerate((3, 2, 1)):  # widths 4, 3 and 2
        products.add(shape, step, stored[step], rounded, tokens, sums)
    out = products.finish(shape, stored[0], rounded, sums)
    for row, width in enumerate((4, 3, 2)):
        lower = _product(Kernels(1), shape, stored[: width - 1], x)
        np.testing.assert_array_equal(out[row], lower[row])
        assert nested.widths[width - 2] == width


def test_bad_input():
    _, stored, shape = _nested(32, 64, (2, 2), 32)
    products = PlaneProducts(Kernels(1))
    x = np.ones((2, 64), np.float32)
    rounded, sums = products.round(x, 32), products.sums(2, shape)
    with pytest.raises(BadInput, match="takes"):
        products.add(shape, 1, stored[0], rounded, 2, sums)
    with pytest.raises(BadInput, match="does not fit"):
        products.add(shape, 0, stored[0], rounded, 3, sums)
    with pytest.raises(BadInput, match="3 to 8 bits"):
        NestedShape(32, 64, 6, 32, 3)
    with pytest.raises(BadInput, match="summed exactly"):
        NestedShape(32, 20000, 5, 32, 3)
    with pytest.raises(BadInput, match="tokens, columns"):
        products.round(np.ones((0, 64), np.float32), 32)
