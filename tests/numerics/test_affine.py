import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ondevice.errors import BadInput
from ondevice.numerics.affine import (
    AffineSpec,
    PerChannel,
    PerGroup,
    PerHead,
    PerTensor,
    PerToken,
    dequantize,
    pack,
    quantize,
    unpack,
)

arrays = hnp.arrays(
    np.float32, (6, 24), elements=st.floats(-(2.0**80), 2.0**80, width=32, allow_subnormal=False)
)
granularities = st.sampled_from(
    [PerTensor(), PerChannel(0), PerChannel(1), PerGroup(8), PerToken(), PerHead(3)]
)


@settings(deadline=None)
@given(arrays, st.integers(2, 16), st.booleans(), granularities)
def test_the_error_is_at_most_half_a_step(values, bits, symmetric, granularity):
    quantized = quantize(values, AffineSpec(bits, symmetric, granularity))
    error = np.abs(dequantize(quantized).astype(float) - values).reshape(quantized.blocks)
    # a nudged zero moves the range by up to half a step, so the ends may lie a whole step off
    assert (
        error <= quantized.scales.astype(float) * (0.5 if symmetric else 1.0) * (1 + 2.0 ** (bits - 22))
    ).all()


@settings(deadline=None)
@given(arrays, st.integers(2, 16), st.booleans(), granularities)
def test_zero_is_exact(values, bits, symmetric, granularity):
    values = values.copy()
    values[::2, ::5] = 0
    assert not dequantize(quantize(values, AffineSpec(bits, symmetric, granularity)))[values == 0].any()


def test_per_tensor_asymmetric_equals_torch():
    import torch

    values = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32) * 3 + 1
    ours = quantize(values, AffineSpec(8, symmetric=False))
    theirs = torch.quantize_per_tensor(
        torch.from_numpy(values), float(ours.scales.item()), int(ours.zeros.item()), torch.quint8
    )
    np.testing.assert_array_equal(ours.codes, theirs.int_repr().numpy())
    np.testing.assert_allclose(dequantize(ours), theirs.dequantize().numpy(), rtol=1e-6, atol=1e-7)


@given(st.integers(1, 16), st.integers(0, 200), st.integers(0, 2**31))
def test_unpack_returns_what_was_packed(bits, count, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.uint16)
    packed = pack(codes, bits)
    assert packed.size == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


def test_pack_agrees_with_integer_arithmetic():
    codes = [5, 0, 7, 3, 1]
    whole = sum(code << (3 * place) for place, code in enumerate(codes))
    assert pack(np.array(codes), 3).tobytes() == whole.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: AffineSpec(0), "1 to 16"),
        (lambda: AffineSpec(17), "1 to 16"),
        (lambda: AffineSpec(1), "symmetric"),
        (lambda: quantize(np.array([np.nan]), AffineSpec(8)), "NaN"),
        (lambda: quantize(np.ones((2, 10)), AffineSpec(8, True, PerGroup(4))), "divide"),
        (lambda: quantize(np.ones((2, 10)), AffineSpec(8, True, PerHead(0))), "divide"),
        (lambda: quantize(np.ones((2, 10)), AffineSpec(8, True, PerChannel(2))), "outside"),
        (lambda: pack(np.array([8]), 3), "fit"),
        (lambda: unpack(np.zeros(1, np.uint8), 4, 3), "too few"),
    ],
)
def test_bad_input_says_what_is_wrong(action, words):
    with pytest.raises(BadInput, match=words):
        action()


def test_an_empty_array_stays_empty():
    assert dequantize(quantize(np.empty((0, 8), np.float32), AffineSpec(4))).shape == (0, 8)
