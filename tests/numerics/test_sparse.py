from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.numerics import sparse


@given(st.integers(1, 20), st.integers(1, 40), st.floats(0, 1), st.sampled_from(sparse.DTYPES))
def test_comes_back_and_takes_the_bytes_it_says(rows, columns, density, dtype):
    matrix = scipy.sparse.random(rows, columns, density, random_state=0).toarray().astype(dtype)
    stored = sparse.pack(matrix, dtype)
    np.testing.assert_array_equal(sparse.unpack(stored, rows, columns, dtype), matrix.astype(np.float32))
    values = np.count_nonzero(matrix) * np.dtype(dtype).itemsize
    assert stored.size == -(-rows * columns // 32) * 4 + values


@given(st.binary(max_size=40), st.integers(0, 9), st.integers(0, 9))
def test_any_bytes_are_read_or_refused(data, rows, columns):
    try:
        sparse.unpack(np.frombuffer(data, np.uint8), rows, columns)
    except BadInput:
        return
    assert rows * columns > 0


def test_bad_input():
    with pytest.raises(BadInput, match="too large for float16"):
        sparse.pack(np.array([[1e6]]))
    with pytest.raises(BadInput, match="float16 or float32, not 'int8'"):
        sparse.pack(np.ones((1, 1)), "int8")
