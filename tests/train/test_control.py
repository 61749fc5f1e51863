from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.train.control import frozen_random_accuracy, frozen_random_segmentation, linear_accuracy


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


def bright_or_dark(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    return torch.randn(count, 1, 8, 8, generator=generator) + 2.0 * labels[:, None, None, None], labels


def test_what_needs_no_learning_is_found_and_noise_is_not() -> None:
    train, test = bright_or_dark(120, 0), bright_or_dark(80, 1)
    assert frozen_random_accuracy(network(), train, test, classes=2, seed=0) > 0.95
    shuffled = (train[0], train[1][torch.randperm(120, generator=torch.Generator().manual_seed(2))])
    assert 0.2 < frozen_random_accuracy(network(), shuffled, test, classes=2, seed=0) < 0.8


def test_the_networks_own_weights_do_not_count_and_stay_as_they_are() -> None:
    train, test = bright_or_dark(60, 0), bright_or_dark(60, 1)
    module = network()
    first = frozen_random_accuracy(module, train, test, classes=2, seed=3)
    dead = network()
    with torch.no_grad():
        for parameter in dead.parameters():
            parameter.zero_()
    assert frozen_random_accuracy(dead, train, test, classes=2, seed=3) == first
    assert all(bool((parameter == 0).all()) for parameter in dead.parameters())
    assert module.training


def test_maps_are_pooled() -> None:
    train, test = bright_or_dark(60, 0), bright_or_dark(60, 1)
    assert frozen_random_accuracy(nn.Conv2d(1, 4, 3), train, test, classes=2, seed=0) > 0.9


def test_pixels_that_need_no_learning_are_found() -> None:
    module = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 2, 1))
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (6, 12, 12), generator=generator)
    inputs = torch.randn(6, 1, 12, 12, generator=generator) * 0.1 + masks[:, None]
    found = frozen_random_segmentation(module, (inputs[:3], masks[:3]), inputs[3:], seed=0)
    assert found.shape == (3, 12, 12)
    assert float((found == masks[3:].numpy()).mean()) > 0.95


def test_the_penalty_is_chosen_so_that_noise_in_many_features_does_no_harm() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(120) % 2
    features = random.normal(size=(240, 100)).astype(np.float32)
    features[:, :10] += 2 * np.tile(labels, 2)[:, None]
    assert linear_accuracy(features[:120], labels, features[120:], labels) > 0.95


def test_bad_labels_are_refused() -> None:
    train, test = bright_or_dark(20, 0), bright_or_dark(20, 1)
    with pytest.raises(BadInput, match=r"must lie in 0\.\.0"):
        frozen_random_accuracy(network(), train, test, classes=1, seed=0)
    with pytest.raises(BadInput, match="as many labels"):
        frozen_random_accuracy(network(), (train[0], train[1][:5]), test, classes=2, seed=0)
    with pytest.raises(BadInput, match="two classes or more"):
        frozen_random_accuracy(network(), (train[0], train[1] * 0), test, classes=2, seed=0)
