from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.factorize.lowrank import LowRank, break_even, factorize
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.factorized import LowRankLinear


@pytest.mark.parametrize("shape", [(20, 30), (30, 20)])
def test_plain_factors_are_the_best_of_their_rank(shape):
    layer = nn.Linear(shape[1], shape[0]).requires_grad_(False)
    small = factorize(layer, 6)
    values = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)
    error = float((layer.weight - small.weight).norm())
    assert error == pytest.approx(np.sqrt((values[6:] ** 2).sum()), rel=1e-4)  # Eckart and Young
    assert torch.equal(small.up.bias, layer.bias)
    # Greenformers, eq. 3: both halves get the root of the singular values
    torch.testing.assert_close(small.up.weight.norm(dim=0), small.down.weight.norm(dim=1))


def test_whitened_factors_are_the_best_for_the_output(model, calibration):
    name = "encoder.layer.1.intermediate.dense"
    layer, moments = model.module.get_submodule(name), calibration.moments(model)[name]
    small = factorize(layer, 5, moments)
    difference = (layer.weight - small.weight).double()
    error = float(((difference @ moments.covariance) * difference).sum())
    values, vectors = np.linalg.eigh(moments.covariance.numpy())
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    singular = np.linalg.svd(layer.weight.double().numpy() @ root, compute_uv=False)
    assert error == pytest.approx((singular[5:] ** 2).sum(), rel=1e-3)
    mean = moments.mean.float()
    torch.testing.assert_close(small(mean), layer(mean), rtol=1e-3, atol=1e-3)


def test_outputs_come_closer_with_rank(model, calibration, texts):
    before = model.predict(texts)
    errors = [
        float(np.square(LowRank(rank).apply(model, calibration).predict(texts) - before).mean())
        for rank in (2, 6, 12)
    ]
    assert errors == sorted(errors, reverse=True)


def test_a_fraction_is_of_the_break_even_rank_and_always_shrinks(model, calibration):
    small = LowRank(0.99).apply(model, calibration)
    for name, layer in model.layers(nn.Linear).items():
        half = small.module.get_submodule(name)
        assert half.rank == int(0.99 * break_even(layer))
        assert half.macs_per_row() < layer.weight.numel()


def test_layers_that_would_grow_stay(model, calibration):
    small = LowRank(18).apply(model, calibration)  # breaks even at 16 (32 x 32) and 21.3 (64 x 32)
    assert all("dense" in name for name in small.layers(LowRankLinear))
    assert len(small.layers(LowRankLinear)) == 4


def test_a_rank_that_shrinks_nothing_is_refused(model, calibration):
    with pytest.raises(BadInput, match=r"encoder.*breaks even at 21\.3"):
        LowRank(22).apply(model, calibration)
    for rank in (0, -1, 1.5):
        with pytest.raises(BadInput, match="break-even"):
            LowRank(rank)
    with pytest.raises(BadInput, match="no rank 40"):
        factorize(nn.Linear(32, 32), 40)


def test_whitening_needs_calibration(model):
    with pytest.raises(NeedsCalibration, match="whiten=true"):
        LowRank(4).apply(model)
    assert LowRank(4, whiten=False).apply(model).layers(LowRankLinear)


@pytest.mark.parametrize("solver", ["snmf", "random"])
def test_other_solvers_follow_their_seed(solver):
    layer = nn.Linear(30, 20)
    first, again, other = (factorize(layer, 4, solver=solver, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    best = factorize(layer, 4)
    assert (layer.weight - best.weight).norm() < (layer.weight - first.weight).norm()
