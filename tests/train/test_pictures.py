from __future__ import annotations

import torch
from torch import nn

from ondevice.train.pictures import accuracy, augmented, learn_classes


def stripes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Upright against level stripes of random phase: no shift, mirror or tint turns one into the other."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=chance)
    along = torch.sin(torch.arange(12) * 2.1 + 6.28 * torch.rand(count, 1, generator=chance))
    upright = along[:, None, :].expand(count, 12, 12)
    pictures = torch.where(labels[:, None, None] == 0, upright, upright.transpose(1, 2))
    return pictures[:, None] + 0.1 * torch.randn(count, 1, 12, 12, generator=chance), labels


def learned(seed: int) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 2))  # fmt: skip
    inputs, labels = stripes(256, 0)
    return module, learn_classes(module, inputs, labels, epochs=6, seed=seed, learning_rate=2e-2)


def test_what_can_be_told_apart_is_learned_and_the_seed_decides_how() -> None:
    module, losses = learned(0)
    assert not module.training
    assert losses[-1] < losses[0]
    assert accuracy(module, *stripes(128, 1)) > 0.9
    assert learned(0)[1] == losses
    assert learned(1)[1] != losses


def test_augmented_pictures_differ_and_keep_their_shape() -> None:
    inputs, _ = stripes(8, 0)
    chance = torch.Generator().manual_seed(0)
    first, second = augmented(inputs, chance), augmented(inputs, chance)
    assert first.shape == inputs.shape
    assert (first - second).abs().mean() > 0.05
