from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from ondevice.errors import BadInput
from ondevice.kernels import Kernels, Linear, Matrix, available
from ondevice.numerics.tiles import TiledMatrix, stored_bytes

SIZES = {
    "seed": st.integers(0, 1 << 30),
    "rows": st.integers(1, 130),
    "outputs": st.integers(1, 120),
    "columns": st.integers(1, 300),
    "bits": st.integers(1, 8),
    "group_size": st.sampled_from([32, 64, 128]),
}


def tiles(matrix: TiledMatrix) -> Matrix:
    return Matrix.tiles(matrix.to_bytes(), matrix.rows, matrix.columns, matrix.bits, matrix.group_size)


def inputs(seed: int, rows: int, columns: int, outputs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed + 1)
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    return x, rng.standard_normal(outputs, dtype=np.float32), rng.uniform(0.5, 2, columns).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_int8_products_are_exact_integers(
    kernels: Kernels,
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    outputs: int,
    columns: int,
    bits: int,
    group_size: int,
) -> None:
    matrix = random_tiles(seed, outputs, columns, bits, group_size)
    x, bias, inverse = inputs(seed, rows, columns, outputs)
    scaled = x * inverse
    steps = np.abs(scaled).max(axis=1, keepdims=True) / np.float32(127)
    values = np.rint(scaled * (np.float32(1) / steps)).astype(np.int64)
    expected = (values @ matrix.int8().T.astype(np.int64)) * (steps * matrix.scales).astype(np.float64) + bias
    out = kernels.linear(x, Linear([tiles(matrix)], [bias], inverse=inverse, int8=True))
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(**SIZES)
def test_float_products_match_float64(
    kernels: Kernels,
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    outputs: int,
    columns: int,
    bits: int,
    group_size: int,
) -> None:
    matrix = random_tiles(seed, outputs, columns, bits, group_size)
    x, bias, inverse = inputs(seed, rows, columns, outputs)
    out = kernels.linear(x, Linear([tiles(matrix)], [bias], inverse=inverse))
    expected = (x * inverse).astype(np.float64) @ matrix.dequantize().T.astype(np.float64) + bias
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    seed=SIZES["seed"], rows=SIZES["rows"], outputs=SIZES["outputs"], columns=SIZES["columns"],
    dtype=st.sampled_from(["float32", "float16"]),
)  # fmt: skip
def test_dense_matrices_match_torch(
    kernels: Kernels, seed: int, rows: int, outputs: int, columns: int, dtype: str
) -> None:
    x, bias, _ = inputs(seed, rows, columns, outputs)
    weight = np.random.default_rng(seed).standard_normal((outputs, columns)).astype(dtype)
    out = kernels.linear(x, Linear([Matrix.dense(weight)], [bias]))
    expected = torch.nn.functional.linear(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), torch.from_numpy(bias).double()
    )
    np.testing.assert_allclose(out, expected.numpy(), rtol=1e-5, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(**SIZES, int8=st.booleans(), first=st.integers(0, 129), count=st.integers(1, 130))
def test_a_row_does_not_depend_on_batch_or_threads(
    threaded: tuple[Kernels, Kernels],
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    outputs: int,
    columns: int,
    bits: int,
    group_size: int,
    int8: bool,
    first: int,
    count: int,
) -> None:
    one, three = threaded
    matrix = random_tiles(seed, outputs, columns, bits, group_size)
    x, bias, inverse = inputs(seed, rows, columns, outputs)
    layer = Linear([tiles(matrix)], [bias], inverse=inverse, int8=int8)
    whole = one.linear(x, layer, activation="gelu")
    first %= rows
    part = three.linear(np.ascontiguousarray(x[first : first + count]), layer, activation="gelu")
    np.testing.assert_array_equal(part, whole[first : first + count])
    np.testing.assert_array_equal(three.linear(x, layer, activation="gelu"), whole)


@settings(max_examples=25, deadline=None)
@given(**SIZES)
def test_unpacking_ahead_changes_nothing(
    threaded: tuple[Kernels, Kernels],
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    outputs: int,
    columns: int,
    bits: int,
    group_size: int,
) -> None:
    one, three = threaded
    parts = [tiles(random_tiles(seed + i, outputs + 7 * i, columns, bits, group_size)) for i in range(2)]
    x, _, inverse = inputs(seed, rows, columns, outputs)
    layer = Linear(parts, inverse=inverse, int8=True)
    packed = one.linear(x, layer)
    three.unpack(layer)
    three.unpack(layer)
    np.testing.assert_array_equal(three.linear(x, layer), packed)
    for name in available():  # a layer that one instruction set unpacked, on another
        np.testing.assert_array_equal(Kernels(1, name).linear(x, layer), packed)


@settings(max_examples=25, deadline=None)
@given(**SIZES)
def test_every_instruction_set_gives_the_same_integers(
    random_tiles: Callable[..., TiledMatrix],
    seed: int,
    rows: int,
    outputs: int,
    columns: int,
    bits: int,
    group_size: int,
) -> None:
    matrix = random_tiles(seed, outputs, columns, bits, group_size)
    x, _, inverse = inputs(seed, rows, columns, outputs)
    layer = Linear([tiles(matrix)], inverse=inverse, int8=True)
    results = [Kernels(1, name).linear(x, layer) for name in available()]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


def test_the_largest_weights_and_activations_do_not_saturate(kernels: Kernels) -> None:
    columns = 512
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((16, columns)) < 0.5, 0, 255).astype(np.uint8)  # w8 = -128 or 127
    codes[0] = 0
    matrix = TiledMatrix(
        16, columns, 8, 32, codes, np.ones((16, columns // 32), np.int8), np.ones(16, np.float32)
    )
    x = np.where(rng.random((3, columns)) < 0.5, -127, 127).astype(np.float32)
    x[0] = -127
    out = kernels.linear(x, Linear([tiles(matrix)], int8=True))
    np.testing.assert_array_equal(out, x @ matrix.int8().T.astype(np.float32))


def test_hostile_bytes_do_no_harm(kernels: Kernels) -> None:
    stored = np.random.default_rng(0).integers(0, 256, stored_bytes(20, 70, 5, 32), dtype=np.uint8)
    x = np.ones((3, 70), np.float32)
    with np.errstate(all="ignore"):
        for int8 in (True, False):
            out = kernels.linear(x, Linear([Matrix.tiles(stored, 20, 70, 5, 32)], int8=int8))
            assert out.shape == (3, 20)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_becomes_nan_and_no_other(
    kernels: Kernels, random_tiles: Callable[..., TiledMatrix], bad: float
) -> None:
    layer = Linear([tiles(random_tiles(0, 40, 70, 4))], int8=True)
    x = np.random.default_rng(0).standard_normal((3, 70), dtype=np.float32)
    clean = kernels.linear(x, layer)
    x[1, 69] = bad
    out = kernels.linear(x, layer)
    assert np.isnan(out[1]).all()
    np.testing.assert_array_equal(out[[0, 2]], clean[[0, 2]])


def test_several_matrices_lie_side_by_side(
    kernels: Kernels, random_tiles: Callable[..., TiledMatrix]
) -> None:
    parts = [random_tiles(seed, outputs, 96, 6) for seed, outputs in enumerate((33, 16, 50))]
    x, bias, inverse = inputs(0, 9, 96, 33)
    joint = kernels.linear(
        x, Linear([tiles(part) for part in parts], [bias, None, None], inverse=inverse, int8=True)
    )
    biases = [bias, None, None]
    single = [
        kernels.linear(x, Linear([tiles(part)], [b], inverse=inverse, int8=True))
        for part, b in zip(parts, biases, strict=True)
    ]
    np.testing.assert_array_equal(joint, np.concatenate(single, axis=1))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "tanh"])
def test_activations_match_scipy_and_numpy(kernels: Kernels, activation: str) -> None:
    x = np.linspace(-9, 9, 4001, dtype=np.float32).reshape(1, -1)
    wide = x.astype(np.float64)
    expected = {
        "gelu": wide / 2 * (1 + erf(wide / np.sqrt(2))),
        "gelu_tanh": wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))),
        "relu": np.maximum(wide, 0),
        "tanh": np.tanh(wide),
    }[activation]
    np.testing.assert_allclose(kernels.activate(x.copy(), activation), expected, atol=4e-6)  # type: ignore[arg-type]


def test_no_rows_give_no_rows(kernels: Kernels, random_tiles: Callable[..., TiledMatrix]) -> None:
    layer = Linear([tiles(random_tiles(0, 40, 70, 4))], int8=True)
    assert kernels.linear(np.empty((0, 70), np.float32), layer).shape == (0, 40)


def test_buffers_of_a_wrong_size_are_refused(random_tiles: Callable[..., TiledMatrix]) -> None:
    stored = random_tiles(0, 40, 70, 4).to_bytes()
    for bad in (stored[:-1], stored[:0], np.append(stored, stored[:1]), stored.astype(np.int8), stored[None]):
        with pytest.raises(BadInput, match="bytes"):
            Matrix.tiles(bad, 40, 70, 4, 32)
    for rows, columns, bits, group_size in (
        (0, 70, 4, 32),
        (40, -1, 4, 32),
        (40, 70, 9, 32),
        (40, 70, 4, 33),
    ):
        with pytest.raises(BadInput):
            Matrix.tiles(stored, rows, columns, bits, group_size)
    with pytest.raises(BadInput, match="contiguous"):
        Matrix.tiles(np.repeat(stored, 2)[::2], 40, 70, 4, 32)


def test_layers_that_do_not_fit_together_are_refused(random_tiles: Callable[..., TiledMatrix]) -> None:
    matrix = tiles(random_tiles(0, 40, 70, 4))
    dense = Matrix.dense(np.ones((40, 70), np.float32))
    with pytest.raises(BadInput, match="bias"):
        Linear([matrix], [np.zeros(39, np.float32)])
    with pytest.raises(BadInput, match="inverse"):
        Linear([matrix], inverse=np.zeros(71, np.float32))
    with pytest.raises(BadInput, match="dense"):
        Linear([dense], int8=True)
    with pytest.raises(BadInput, match="different inputs"):
        Linear([matrix, Matrix.dense(np.ones((4, 71), np.float32))])
    with pytest.raises(BadInput):
        Linear([])
    for bad in (
        np.ones((4, 4)),
        np.ones(4, np.float32),
        np.ones((0, 4), np.float32),
        np.ones((4, 6), np.float32).T,
    ):
        with pytest.raises(BadInput):
            Matrix.dense(bad)


def test_inputs_of_a_wrong_form_are_refused(
    kernels: Kernels, random_tiles: Callable[..., TiledMatrix]
) -> None:
    layer = Linear([tiles(random_tiles(0, 40, 70, 4))], int8=True)
    x = np.zeros((3, 70), np.float32)
    read_only = np.zeros((3, 40), np.float32)
    read_only.flags.writeable = False
    for bad in (x[:, :69].copy(), x.astype(np.float64), x[0], np.zeros((3, 140), np.float32)[:, ::2]):
        with pytest.raises(BadInput):
            kernels.linear(bad, layer)
    for out in (np.zeros((3, 41), np.float32), np.zeros((2, 40), np.float32), read_only):
        with pytest.raises(BadInput, match="out"):
            kernels.linear(x, layer, out=out)
    with pytest.raises(BadInput, match="activation"):
        kernels.linear(x, layer, activation="swish")  # type: ignore[arg-type]
