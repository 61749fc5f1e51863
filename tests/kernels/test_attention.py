from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import Kernels


def problem(
    seed: int, lengths: list[int], heads: int, head_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """qkv, starts, and what torch makes of each sequence in float64."""
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    qkv = np.random.default_rng(seed).standard_normal((starts[-1], 3 * heads * head_size), dtype=np.float32)
    parts = []
    for first, last in pairwise(starts):
        q, k, v = (
            torch.from_numpy(qkv[first:last]).double().reshape(-1, 3, heads, head_size).permute(1, 2, 0, 3)
        )
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        parts.append(out.transpose(0, 1).reshape(last - first, heads * head_size).numpy())
    return qkv, starts, np.concatenate(parts)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    heads=st.integers(1, 4), head_size=st.integers(1, 70), half=st.booleans(),
)  # fmt: skip
def test_attention_matches_torch(
    kernels: Kernels, seed: int, lengths: list[int], heads: int, head_size: int, half: bool
) -> None:
    qkv, starts, expected = problem(seed, lengths, heads, head_size)
    out = kernels.attention(qkv, starts, heads, head_size**-0.5, half=half)
    if half:  # bfloat16 has 8 bits: 2**-9 of a value, of each factor of each product
        np.testing.assert_allclose(out, expected, atol=0.06)
        assert np.sqrt(np.mean((out - expected) ** 2)) < 0.005
    else:
        np.testing.assert_allclose(out, expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1 << 30), before=st.integers(0, 70), length=st.integers(1, 150), after=st.integers(0, 70),
    heads=st.integers(1, 3), head_size=st.sampled_from([8, 26, 32, 64]), half=st.booleans(),
)  # fmt: skip
def test_a_sequence_does_not_depend_on_batch_or_threads(
    threaded: tuple[Kernels, Kernels], seed: int, before: int, length: int, after: int, heads: int,
    head_size: int, half: bool,
) -> None:  # fmt: skip
    one, three = threaded
    lengths = [before, length, after]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    qkv = np.random.default_rng(seed).standard_normal((starts[-1], 3 * heads * head_size), dtype=np.float32)
    whole = one.attention(qkv, starts, heads, 0.3, half=half)
    np.testing.assert_array_equal(three.attention(qkv, starts, heads, 0.3, half=half), whole)
    alone = qkv[before : before + length].copy()
    np.testing.assert_array_equal(
        three.attention(alone, np.array([0, length]), heads, 0.3, half=half), whole[before : before + length]
    )


def test_large_scores_do_not_overflow(kernels: Kernels) -> None:
    qkv, starts, _ = problem(0, [20], 2, 16)
    qkv[:, :64] *= 100
    out = kernels.attention(qkv, starts, 2, 1.0)
    values = qkv[:, 64:].reshape(20, 2, 16)
    assert np.isfinite(out).all()
    assert (np.abs(out.reshape(20, 2, 16)) <= np.abs(values).max(axis=0) + 1e-6).all()


def test_nan_stays_within_its_sequence(kernels: Kernels) -> None:
    qkv, starts, expected = problem(0, [20, 30], 2, 16)
    qkv[5] = np.nan
    out = kernels.attention(qkv, starts, 2, 0.25)
    assert np.isnan(out[:20]).all()
    np.testing.assert_allclose(out[20:], expected[20:], atol=1e-5)


def test_sequences_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    qkv = np.zeros((10, 96), np.float32)
    for bad in ([0, 9], [1, 10], [0, 11], [0, 7, 5, 10], [], [[0, 10]]):
        with pytest.raises(BadInput, match="starts"):
            kernels.attention(qkv, np.array(bad, np.int64), 2, 1.0)
    with pytest.raises(BadInput, match="starts"):
        kernels.attention(qkv, np.array([0, 10], np.int32), 2, 1.0)  # type: ignore[arg-type]
    for heads in (0, -1, 5):
        with pytest.raises(BadInput, match="heads"):
            kernels.attention(qkv, np.array([0, 10]), heads, 1.0)
    assert kernels.attention(qkv[:0], np.array([0]), 2, 1.0).shape == (0, 32)
    assert kernels.attention(qkv[:0], np.array([0, 0, 0]), 2, 1.0).shape == (0, 32)
