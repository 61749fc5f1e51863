from __future__ import annotations

import pytest
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.train.loop import descend


def _regression(seed=0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=generator)
    target = x @ torch.arange(5.0)
    weight = nn.Parameter(torch.zeros(5))
    batches = list(zip(x.split(16), target.split(16)))
    losses = descend(
        [weight],
        lambda batch: (batch[0] @ weight - batch[1]).square().mean(),
        batches,
        epochs=100,
        learning_rate=0.1,
        seed=seed,
    )
    return weight, losses


def test_finds_the_least_squares_solution():
    weight, losses = _regression()
    torch.testing.assert_close(weight.detach(), torch.arange(5.0), atol=1e-2, rtol=0)
    assert losses[-1] < 1e-3 * losses[0]


def test_follows_its_seed():
    assert torch.equal(_regression(1)[0], _regression(1)[0])
    assert not torch.equal(_regression(1)[0], _regression(2)[0])


def test_bad_input():
    weight = nn.Parameter(torch.ones(1))
    with pytest.raises(BadInput, match="needs parameters"):
        descend([], lambda _: weight.sum(), [0], epochs=1, learning_rate=0.1)
    with pytest.raises(BadInput, match="lower learning rate"):
        descend([weight], lambda _: weight.sum() * torch.inf, [0], epochs=1, learning_rate=0.1)
