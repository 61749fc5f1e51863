import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.numerics.tiles import TiledMatrix, choose_scales, quantize_tiled, stored_bytes

shapes = st.tuples(st.integers(1, 50), st.integers(1, 140), st.integers(1, 8), st.sampled_from([32, 64, 128]))


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_bytes_read_back_as_the_same_matrix(shape, seed):
    rows, columns, bits, group_size = shape
    weight = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    tiled = quantize_tiled(weight, bits, group_size)
    stored = tiled.to_bytes()
    assert stored.size == tiled.nbytes == stored_bytes(rows, columns, bits, group_size)
    again = TiledMatrix.from_bytes(stored, rows, columns, bits, group_size)
    np.testing.assert_array_equal(again.codes, tiled.codes)
    np.testing.assert_array_equal(again.multipliers, tiled.multipliers)
    np.testing.assert_array_equal(again.scales, tiled.scales)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_products_stay_within_int8(shape, seed):
    rows, columns, bits, group_size = shape
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((rows, columns)) * rng.choice([1e-3, 1, 50], (rows, 1))).astype(np.float32)
    tiled = quantize_tiled(weight, bits, group_size)
    steps = np.repeat(tiled.multipliers.astype(int), group_size, axis=1)[:, :columns]
    exact = steps * (tiled.codes.astype(int) - 2 ** (bits - 1))
    np.testing.assert_array_equal(exact, tiled.int8())
    np.testing.assert_allclose(tiled.dequantize(), exact * tiled.scales[:, None].astype(float), rtol=1e-6)


def test_the_byte_layout_by_hand():
    """One panel, two groups, 3 bits: the position of a single code, written out from the specification."""
    codes = np.full((16, 64), 4, np.uint8)
    codes[5, 32 + 4 * 6 + 2] = 7  # row 5, group 1, quad 6, column 2 of the quad
    multipliers = np.arange(32, dtype=np.int8).reshape(16, 2)
    stored = TiledMatrix(16, 64, 3, 32, codes, multipliers, np.arange(16, dtype=np.float32)).to_bytes()
    np.testing.assert_array_equal(stored[:64].view(np.float32), np.arange(16))
    np.testing.assert_array_equal(stored[64:96], np.concatenate([np.arange(0, 32, 2), np.arange(1, 32, 2)]))
    group = stored[128 + 192 : 128 + 2 * 192]  # 2-bit plane of 128 bytes, then 1-bit plane of 64
    assert group[64 + 5 * 4 + 2] == 3 << 4  # quad 6 = vector 1, place 2
    assert group[128 + 5 * 4 + 2] == 0xFF  # the third bit of all eight quads is set (code 4 and 7)
    assert np.count_nonzero(group[:128]) == 1


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_error_is_below_that_of_plain_absmax_rounding(bits):
    weight = np.random.default_rng(bits).standard_normal((64, 384)).astype(np.float32)
    blocked = weight.reshape(64, -1, 32)
    step = np.abs(blocked).max(axis=2, keepdims=True) / (2 ** (bits - 1) - 1)
    plain = (np.rint(blocked / step) * step - blocked) ** 2
    ours = (quantize_tiled(weight, bits, 32).dequantize() - weight) ** 2
    assert ours.mean() < plain.mean()  # and that with a quarter of a bit a weight less for scales


def test_error_falls_with_every_bit():
    weight = np.random.default_rng(0).standard_normal((64, 384)).astype(np.float32)
    errors = [float(((quantize_tiled(weight, b).dequantize() - weight) ** 2).mean()) for b in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    per_row_int8 = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert errors[-1] <= ((np.rint(weight / per_row_int8) * per_row_int8 - weight) ** 2).mean() * 1.001


def test_importance_moves_the_error_to_where_it_matters_less():
    weight = np.random.default_rng(1).standard_normal((64, 128)).astype(np.float32)
    importance = np.where(np.arange(128) % 2, 100.0, 1.0).astype(np.float32)
    plain = (quantize_tiled(weight, 2).dequantize() - weight) ** 2
    weighted = (quantize_tiled(weight, 2, importance=importance).dequantize() - weight) ** 2
    assert (weighted * importance).mean() < (plain * importance).mean()


def test_zeros_stay_exactly_zero():
    weight = np.random.default_rng(2).standard_normal((20, 96)).astype(np.float32)
    weight[:, ::3] = 0
    weight[3] = 0
    assert not quantize_tiled(weight, 4).dequantize()[weight == 0].any()


@pytest.mark.parametrize(
    ("bits", "group_size", "words"),
    [(0, 32, "1 to 8"), (9, 32, "1 to 8"), (4, 16, "multiple of 32"), (4, 48, "multiple of 32")],
)
def test_a_bad_format_is_refused(bits, group_size, words):
    with pytest.raises(BadInput, match=words):
        quantize_tiled(np.ones((4, 64), np.float32), bits, group_size)


def test_nan_and_wrong_sizes_are_refused():
    weight = np.ones((4, 64), np.float32)
    stored = quantize_tiled(weight, 4).to_bytes()
    with pytest.raises(BadInput, match="expected"):
        TiledMatrix.from_bytes(stored[:-1], 4, 64, 4, 32)
    with pytest.raises(BadInput, match="importance"):
        choose_scales(weight, 4, 32, np.ones(3, np.float32))
    weight[0, 0] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        quantize_tiled(weight, 4)
