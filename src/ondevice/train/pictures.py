"""Learning to classify pictures: augmented batches, and how many of a test come out right.

Knows tensors, a module and the plain loop. Knows nothing of which pictures or which network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, pad

from ondevice.train.classify import accuracy
from ondevice.train.loop import descend

__all__ = ["accuracy", "augmented", "learn_classes", "outputs"]

_BATCH = 64


def learn_classes(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 4e-3,
    progress: Callable[[float], None] = lambda done: None,
) -> list[float]:
    """Train `module` to tell inputs (n, channels, h, w) apart; the mean loss of each epoch.

    Each batch is flipped, shifted, and changed in contrast, brightness and colour, by chance drawn from `seed`.
    Cross-entropy with a tenth of label smoothing. The module is left in eval mode.
    """
    chance = torch.Generator().manual_seed(seed)
    batches = list(torch.split(torch.randperm(len(inputs), generator=chance), _BATCH))
    batches = batches if len(batches[-1]) > 1 else batches[:-1]  # batch normalisation needs two
    steps = 0

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps % 20 == 0:
            progress(steps / (epochs * len(batches)))
        return cross_entropy(module(augmented(inputs[rows], chance)), labels[rows], label_smoothing=0.1)

    module.train()
    losses = descend(
        module.parameters(), loss_of, batches,
        epochs=epochs, learning_rate=learning_rate, weight_decay=0.05, seed=seed,
    )  # fmt: skip
    module.eval()
    return losses


def augmented(inputs: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Half of the pictures (n, channels, h, w) mirrored; all shifted by up to a twelfth of a side, their contrast,
    brightness and the balance of their channels changed. The same shift holds for a batch."""
    count, channels, height, width = inputs.shape
    mirrored = torch.rand(count, 1, 1, 1, generator=chance) < 0.5
    changed = torch.where(mirrored, inputs.flip(3), inputs)
    reach = max(1, height // 12)
    top, left = torch.randint(0, 2 * reach + 1, (2,), generator=chance).tolist()
    changed = pad(changed, (reach,) * 4, mode="reflect")[:, :, top : top + height, left : left + width]
    gain = torch.exp(0.2 * torch.randn(count, channels, 1, 1, generator=chance))
    return changed * gain + 0.2 * torch.randn(count, channels, 1, 1, generator=chance)


def outputs(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What the module says of all inputs, batch by batch, in eval mode."""
    module.eval()
    with torch.inference_mode():
        return torch.cat([module(batch) for batch in torch.split(inputs, 4 * _BATCH)])
