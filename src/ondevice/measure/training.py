"""What a step of learning keeps for its backward pass, and what memory it really takes.

Knows torch's saved tensors and the operating system's accounting. Knows nothing of what is learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ondevice.measure.counters import peak_activations, storages
from ondevice.measure.memory import call_fresh, own_peak


@dataclass(frozen=True)
class Saved:
    """bytes: of all storages that autograd keeps between forward and backward, each once, parameters not among
    them. tensors: how many tensors it keeps. by_shape: bytes by the shape of what is kept."""

    bytes: int
    tensors: int
    by_shape: dict[tuple[int, ...], int]


def saved_for_backward(loss_of: Callable[[], torch.Tensor], parameters: Iterable[torch.Tensor]) -> Saved:
    """Counts what autograd saves while `loss_of` runs. Nothing is changed; no backward pass is run.

    A storage counts whole, even where a view of a part is saved: that is what stays in memory.
    """
    kept: dict[int, Any] = {}
    shapes: dict[tuple[int, ...], int] = {}
    own = {storage._cdata for storage in storages(list(parameters))}
    tensors = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal tensors
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            tensors += 1
            if storage._cdata not in kept:
                kept[storage._cdata] = storage
                shape = tuple(tensor.shape)
                shapes[shape] = shapes.get(shape, 0) + storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of()
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return Saved(total, tensors, shapes)


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one step of learning. live: most bytes of tensors alive at once that the step made, counted.
    resident: how far the step raised the peak resident memory of a fresh process, measured (up to twice the
    counted: the allocator leaves holes); process: that process's whole peak, Python and torch included."""

    live: int
    resident: int
    process: int


def step_memory(make: Callable[..., Callable[[], object]], *arguments: Any) -> StepMemory:
    """Memory of the step that `make(*arguments)` returns, run once in each of two fresh processes.

    One process counts tensors, the other runs bare and is measured. `make` must be importable by name.
    """
    live, _ = call_fresh(_live, make, arguments)
    resident, process = call_fresh(_resident, make, arguments)
    return StepMemory(live, resident, process)


def _live(make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> int:
    return peak_activations(make(*arguments))


def _resident(make: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]) -> int:
    step = make(*arguments)
    before = own_peak()
    step()
    return own_peak() - before
