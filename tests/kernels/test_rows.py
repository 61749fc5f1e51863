from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ondevice.errors import BadInput
from ondevice.kernels import Kernels, Matrix, available
from ondevice.numerics.tiles import TiledMatrix

ROWS = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 150)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)


@settings(max_examples=60, deadline=None)
@given(x=ROWS)
def test_every_instruction_set_quantises_alike(x: np.ndarray) -> None:
    results = [Kernels(1, name).quantize(x) for name in available()]
    for values, scales in results[1:]:
        np.testing.assert_array_equal(values, results[0][0])
        np.testing.assert_array_equal(scales, results[0][1])


@settings(max_examples=60, deadline=None)
@given(x=ROWS)
def test_quantisation_is_within_half_a_step(kernels: Kernels, x: np.ndarray) -> None:
    values, scales = kernels.quantize(x)
    assert values.min() >= -127
    finite = np.isfinite(x).all(axis=1)
    assert np.isnan(scales[~finite]).all()
    assert not values[~finite].any()
    error = np.abs(values[finite] * scales[finite, None].astype(np.float64) - x[finite])
    assert (error <= 0.5001 * scales[finite, None] + 1.6e-36).all()  # smaller steps would be denormal


@pytest.mark.parametrize("columns", [1, 5, 16, 100, 384])
def test_layer_norm_matches_torch(kernels: Kernels, rng: np.random.Generator, columns: int) -> None:
    x, residual = rng.standard_normal((2, 11, columns), dtype=np.float32)
    gamma, beta = rng.standard_normal((2, columns), dtype=np.float32)
    expected = torch.nn.functional.layer_norm(
        torch.from_numpy(x).double() + torch.from_numpy(residual),
        (columns,),
        torch.from_numpy(gamma).double(),
        torch.from_numpy(beta).double(),
        1e-5,
    ).numpy()
    out = kernels.layer_norm(x, gamma, beta, 1e-5, residual=residual)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    kernels.layer_norm(x, gamma, beta, 1e-5, residual=residual, out=x)  # in place
    np.testing.assert_array_equal(x, out)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), columns=st.integers(1, 100))
def test_layer_norm_of_a_row_does_not_depend_on_batch_or_threads(
    threaded: tuple[Kernels, Kernels], seed: int, rows: int, columns: int
) -> None:
    one, three = threaded
    x = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    weights = np.ones(columns, np.float32), np.zeros(columns, np.float32)
    whole = one.layer_norm(x, *weights, 1e-5)
    np.testing.assert_array_equal(three.layer_norm(x, *weights, 1e-5), whole)
    np.testing.assert_array_equal(three.layer_norm(x[rows // 2 :], *weights, 1e-5), whole[rows // 2 :])


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), rows=st.integers(1, 60), columns=st.integers(1, 200), bits=st.integers(1, 8),
    group_size=st.sampled_from([32, 64, 128]),
)  # fmt: skip
def test_rows_of_tables_are_summed(
    kernels: Kernels,
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    columns: int,
    bits: int,
    group_size: int,
) -> None:
    rng = np.random.default_rng(seed)
    first = random_tiles(seed, rows, columns, bits, group_size)
    dense, half = rng.standard_normal((2, 7, columns)).astype(np.float32)
    chosen = np.stack([rng.integers(-1, rows, 20), rng.integers(0, 7, 20), rng.integers(0, 7, 20)]).astype(
        np.int32
    )
    tables = [
        Matrix.tiles(first.to_bytes(), rows, columns, bits, group_size),
        Matrix.dense(dense),
        Matrix.dense(half.astype(np.float16)),
    ]
    expected = np.where(chosen[0, :, None] >= 0, first.dequantize()[chosen[0]], 0)
    expected = expected + dense[chosen[1]] + half.astype(np.float16)[chosen[2]].astype(np.float32)
    np.testing.assert_allclose(kernels.embed(tables, chosen), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, for signalling NaNs
def test_halves_of_every_kind_are_read(kernels: Kernels) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, -1)
    out = kernels.embed([Matrix.dense(halves)], np.zeros((1, 1), np.int32))
    np.testing.assert_array_equal(out, halves.astype(np.float32))


def test_rows_outside_a_table_are_refused(kernels: Kernels) -> None:
    table = Matrix.dense(np.ones((7, 5), np.float32))
    for bad in (7, -2, 1 << 30):
        with pytest.raises(BadInput, match="outside"):
            kernels.embed([table], np.array([[0, bad]], np.int32))
    with pytest.raises(BadInput, match="rows"):
        kernels.embed([table], np.zeros((2, 3), np.int32))
    with pytest.raises(BadInput, match="rows"):
        kernels.embed([table], np.zeros((1, 3), np.int64))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="go together"):
        kernels.embed([table], np.zeros((1, 3), np.int32), gamma=np.ones(5, np.float32))
    with pytest.raises(BadInput, match="columns"):
        kernels.embed([table, Matrix.dense(np.ones((7, 6), np.float32))], np.zeros((2, 3), np.int32))
    assert kernels.embed([table], np.zeros((1, 0), np.int32)).shape == (0, 5)


def test_norms_of_a_wrong_form_are_refused(kernels: Kernels) -> None:
    x, ones = np.ones((3, 5), np.float32), np.ones(5, np.float32)
    for gamma, beta, residual in ((ones[:4], ones, x), (ones, ones[:4], x), (ones, ones, x[:2])):
        with pytest.raises(BadInput):
            kernels.layer_norm(x, gamma, beta, 1e-5, residual=residual)
    assert kernels.layer_norm(x[:0], ones, ones, 1e-5).shape == (0, 5)
