from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ondevice.compress.prune.eliminate import eliminate


def _problem(columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, columns, generator=generator).double()
    x = torch.randn(500, columns, generator=generator).double()
    return weight, x @ (torch.randn(columns, columns, generator=generator).double() / 2 + torch.eye(columns))


def _least_squares(weight, x, kept):
    """(weight of the kept columns, squared error a row) by numpy.linalg.lstsq."""
    target = (x @ weight.T).numpy()
    solution, *_ = np.linalg.lstsq(x[:, kept].numpy(), target, rcond=None)
    return solution.T, float(np.square(x[:, kept].numpy() @ solution - target).sum() / len(x))


def test_what_stays_is_solved_anew():
    weight, x = _problem(12)
    kept, small = eliminate(weight, x.T @ x / len(x), list(torch.arange(12).view(-1, 1)), 4)
    assert kept.tolist() == sorted(kept.tolist())
    assert len(kept) == 8
    expected, _ = _least_squares(weight, x, kept)
    np.testing.assert_allclose(small.numpy(), expected, atol=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_the_first_to_go_is_the_cheapest_of_all(seed):
    weight, x = _problem(8, seed)
    groups = list(torch.arange(8).view(4, 2))
    kept, _ = eliminate(weight, x.T @ x / len(x), groups, 1)
    errors = {
        tuple(torch.cat(choice).tolist()): _least_squares(weight, x, torch.cat(choice))[1]
        for choice in itertools.combinations(groups, 3)
    }
    assert tuple(kept.tolist()) == min(errors, key=errors.__getitem__)


def test_a_copy_of_another_column_goes_for_nothing():
    weight, x = _problem(10)
    x[:, 3] = x[:, 7]
    kept, small = eliminate(weight, x.T @ x / len(x), list(torch.arange(10).view(-1, 1)), 1)
    assert set(range(10)) - set(kept.tolist()) <= {3, 7}
    error = x[:, kept] @ small.T - x @ weight.T
    assert float(error.square().mean()) < 1e-4 * float((x @ weight.T).square().mean())
