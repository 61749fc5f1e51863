from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from ondevice.errors import BadInput
from ondevice.train.classify import accuracy, learn_classes
from ondevice.train.scratch import learn_digits
from ondevice.train.step import forward_pass, training_step


def blobs(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (300,), generator=generator)
    centres = torch.tensor([[0.0, 2.0], [2.0, 0.0], [-1.0, -1.0]])
    return centres[labels] + torch.randn(300, 2, generator=generator), labels


def test_a_linear_module_reaches_logistic_regression() -> None:
    (inputs, labels), (test_x, test_y) = blobs(0), blobs(1)
    module = nn.Linear(2, 3)
    losses = learn_classes(module, inputs, labels, epochs=30, learning_rate=0.05)
    oracle = LogisticRegression().fit(inputs, labels).score(test_x, test_y)
    assert accuracy(module, test_x, test_y) == pytest.approx(oracle, abs=0.02)
    assert losses[-1] < losses[0]
    assert not module.training


def test_labels_must_fit_inputs() -> None:
    with pytest.raises(BadInput, match="300 inputs and 299 labels"):
        learn_classes(nn.Linear(2, 3), blobs(0)[0], blobs(0)[1][1:], epochs=1)


def test_digits_are_learned_alike_for_a_seed() -> None:
    first, second = (learn_digits(lambda model, seed: model, [3], epochs=4) for _ in range(2))
    assert first == second
    assert 0.5 < first.accuracies[0] < 1


def test_a_step_learns_and_a_pass_does_not() -> None:
    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> object:
            return type("Out", (), {"last_hidden_state": x * self.weight})

    toy = Toy()
    forward_pass(toy, x=torch.ones(3))()
    assert torch.equal(toy.weight, torch.ones(3))
    training_step(toy, x=torch.ones(3))()
    assert bool((toy.weight < 1).all())
