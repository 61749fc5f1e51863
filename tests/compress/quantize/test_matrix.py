from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.compress.quantize.matrix import Inputs, quantize_matrix
from ondevice.errors import BadInput, NeedsCalibration


def _problem(rows, columns, seed=0):
    """A weight, and the second moment of correlated inputs of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mix = torch.randn(columns, columns, generator=generator) + 2 * torch.eye(columns)
    x = torch.randn(8 * columns, columns, generator=generator) @ mix
    x *= torch.rand(columns, generator=generator) * 3
    return weight, (x.T @ x / len(x)).double()


def _error(weight, matrix, second):
    difference = weight.double() - torch.from_numpy(matrix.dequantize()).double()
    return float(((difference @ second) * difference).sum())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(2, 130), st.integers(2, 8), st.integers(0, 99))
def test_gptq_loses_less_than_rounding_to_nearest(rows, columns, bits, seed):
    weight, second = _problem(rows, columns, seed)
    inputs = Inputs(second)
    # what is minimised is damped by 1 % of the mean diagonal, so errors are compared with that
    damped = second + 0.01 * second.diagonal().mean() * torch.eye(columns)
    clever = _error(weight, quantize_matrix(weight, bits, 32, inputs), damped)
    nearest = _error(weight, quantize_matrix(weight, bits, 32, inputs, "rtn"), damped)
    assert clever <= nearest * 1.001


def test_gptq_halves_the_error_on_correlated_inputs():
    weight, second = _problem(64, 256)
    clever = _error(weight, quantize_matrix(weight, 4, 32, Inputs(second)), second)
    nearest = _error(weight, quantize_matrix(weight, 4, 32, Inputs(second), "rtn"), second)
    assert clever < 0.5 * nearest


def test_gptq_is_near_the_best_codes_there_are():
    ratios = {"gptq": [], "rtn": []}
    for seed in range(30):
        weight, second = _problem(1, 6, seed)
        inputs = Inputs(second)
        for method, found in ratios.items():
            matrix = quantize_matrix(weight, 2, 32, inputs, method)
            step = float(matrix.scales[0]) * int(matrix.multipliers[0, 0])
            tries = torch.tensor(list(itertools.product(range(-2, 2), repeat=6))).double() * step
            differences = weight.double() - tries
            best = float(((differences @ second) * differences).sum(dim=1).min())
            found.append(_error(weight, matrix, second) / best)
    assert min(ratios["gptq"]) >= 0.999
    assert np.median(ratios["gptq"]) < 1.01
    assert np.mean(ratios["gptq"]) < 1.3 < np.mean(ratios["rtn"])


def test_inputs_may_be_kept_for_several_settings():
    weight, second = _problem(16, 64)
    kept = Inputs(second)
    for bits in (2, 4):
        once, again = (
            quantize_matrix(weight, bits, 32, Inputs(second)),
            quantize_matrix(weight, bits, 32, kept),
        )
        np.testing.assert_array_equal(once.to_bytes(), again.to_bytes())


def test_channels_that_were_never_on_are_no_trouble():
    weight, second = _problem(8, 64)
    second[10:30] = 0
    second[:, 10:30] = 0
    matrix = quantize_matrix(weight, 4, 32, Inputs(second))
    assert np.isfinite(matrix.dequantize()).all()
    zero = quantize_matrix(torch.zeros(8, 64), 4, 32, Inputs(torch.zeros(64, 64)))
    assert not zero.dequantize().any()


def test_bad_input():
    weight, second = _problem(2, 32)
    with pytest.raises(NeedsCalibration, match="method=rtn"):
        quantize_matrix(weight, 4)
    with pytest.raises(BadInput, match="no method 'magic'; there are: gptq, rtn"):
        quantize_matrix(weight, 4, 32, Inputs(second), "magic")
    with pytest.raises(BadInput, match="NaN"):
        quantize_matrix(weight * torch.nan, 4, 32, Inputs(second))
