"""The plain training loop: AdamW, a schedule, shuffled batches.

Knows parameters and a loss. Knows nothing of what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch

from ondevice.errors import BadInput

Batch = TypeVar("Batch")
_WARMUP = 0.1  # of all steps


def descend(
    parameters: Iterable[torch.nn.Parameter],
    loss_of: Callable[[Batch], torch.Tensor],
    batches: Sequence[Batch],
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """Lower a loss over batches; the mean loss of each epoch.

    Every epoch sees all batches in an order drawn by `seed`. AdamW (Loshchilov and Hutter 2019); the rate rises
    over the first tenth of the steps and falls to zero along a cosine; gradients are cut to norm 1.
    Raises BadInput where there is nothing to learn from, and where the loss is no longer finite.
    """
    learned = list(parameters)
    if not learned or not batches or epochs < 1:
        raise BadInput("training needs parameters, a batch and an epoch")
    steps = epochs * len(batches)
    optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(epochs):
        total = 0.0
        for index in torch.randperm(len(batches), generator=generator).tolist():
            with torch.enable_grad():
                loss = loss_of(batches[index])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            if not bool(torch.isfinite(loss)):
                raise BadInput(f"the loss became {float(loss.detach())}; use a lower learning rate")
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        means.append(total / len(batches))
    return means


def _share(step: int, steps: int) -> float:
    """Of the learning rate at a step."""
    warmup = max(1, int(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
