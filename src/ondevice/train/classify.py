"""Learning to tell classes apart, from arrays in memory.

Knows a module that gives logits. Knows nothing of what the inputs are.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ondevice.errors import BadInput
from ondevice.train.loop import descend


def learn_classes(
    module: nn.Module,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> list[float]:
    """Lower the cross-entropy of module(inputs) in place, as `descend` does; the mean loss of each epoch.

    inputs: (n, ...). labels: int64 (n,). Raises BadInput where their numbers differ.
    """
    if len(inputs) != len(labels):
        raise BadInput(f"{len(inputs)} inputs and {len(labels)} labels; give one label for each input")
    module.train().requires_grad_(True)
    batches = torch.arange(len(inputs)).tensor_split(max(1, len(inputs) // batch_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of dropout
        losses = descend(
            module.parameters(),
            lambda rows: functional.cross_entropy(module(inputs[rows]), labels[rows]),
            batches,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
        )
    module.eval()
    return losses


@torch.inference_mode()
def accuracy(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int = 256) -> float:
    """Share of inputs whose largest logit is their label's."""
    right = 0
    for start in range(0, len(labels), batch_size):
        rows = slice(start, start + batch_size)
        right += int((module(inputs[rows]).argmax(dim=1) == labels[rows]).sum())
    return right / len(labels)
