"""What a forward pass takes, counted: multiply-accumulates, parameters, the peak of live activations.

Knows torch's operators by name. Knows nothing of clocks or devices.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Counts:
    """macs: multiply-accumulates of matrix products and convolutions; by_operator: the same by torch operator.
    parameters: numbers that the module holds, shared ones once; parameter_bytes: their size as held.
    peak_activation_bytes: most bytes of tensors alive at once that the pass itself made (inputs, parameters and
    buffers not among them), each storage once; what an operator needs for itself is not seen."""

    macs: int
    by_operator: dict[str, int]
    parameters: int
    parameter_bytes: int
    peak_activation_bytes: int


def count(module: nn.Module, *inputs: Any, **named: Any) -> Counts:
    """Counts of module(*inputs, **named), run once without gradients.

    An operator that PyTorch's counter does not know counts as none: elementwise work, normalisation and tables
    have no multiply-accumulates here.
    """
    held = {id(tensor): tensor for tensor in module.parameters()}.values()
    with torch.no_grad():
        with FlopCounterMode(display=False, custom_mapping=_UNKNOWN) as flops:
            module(*inputs, **named)
        peak = peak_activations(lambda: module(*inputs, **named))
    by_operator = {
        str(operator).removeprefix("aten."): int(amount) // 2
        for operator, amount in flops.get_flop_counts().get("Global", {}).items()
    }
    return Counts(
        macs=flops.get_total_flops() // 2,
        by_operator=by_operator,
        parameters=sum(tensor.numel() for tensor in held),
        parameter_bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
        peak_activation_bytes=peak,
    )


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Operations of attention by its shapes (batch, heads, length, head size)."""
    scores = query[0] * query[1] * query[2] * key[2]
    return int(2 * scores * (query[3] + value[3]))


# What PyTorch's counter leaves out.
_UNKNOWN = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def peak_activations(act: Callable[[], object]) -> int:
    """Most bytes of storages alive at once that `act` made, whatever it is: a pass, a step of learning."""
    watch = _Watch()
    with watch:
        result = act()
    del result
    return watch.peak


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operator makes until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}  # bytes of a storage by its address
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in storages(result):
            key = storage._cdata
            if key in given or key in self.alive:  # a view, or changed in place
                continue
            self.alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def storages(tree: Any) -> list[Any]:
    """The storage of every tensor in nested tuples, lists and dictionaries."""
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
