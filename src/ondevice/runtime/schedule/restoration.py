"""Weights come back while the model computes: which operations there are, and who goes first.

Knows a decoder's operations as a chain, what each needs from storage, and policies. Knows nothing of threads, bytes or
clocks: `devices.simulate.pipeline` runs it with given durations, `runtime.weights.restored` with real ones.

Before an operation that needs weights go three that restore them: memory is allocated (in order, since secure memory
must be in one piece), they are read, they are decrypted. The processor allocates, decrypts and computes what is not a
product of matrices; those are the accelerator's.

Source: "TZ-LLM: Protecting On-Device Large Language Models with Arm TrustZone", pipelined restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ondevice.devices.simulate.pipeline import Op, check
from ondevice.errors import BadInput

Policy = Literal["serial", "fifo", "priority", "preempt"]
POLICIES: tuple[Policy, ...] = ("serial", "fifo", "priority", "preempt")
IO, CPU, NPU = "io", "cpu", "npu"
_PHASES = ("alloc", "read", "decrypt", "compute")


@dataclass(frozen=True)
class Restore:
    """What brings weights back: seconds of each, 0 where they are measured and not given. pieces: that allocation and
    decryption are cut into. sealed: whether there is anything to decrypt."""

    alloc: float = 0.0
    read: float = 0.0
    decrypt: float = 0.0
    pieces: tuple[int, int] = (1, 1)
    sealed: bool = True


@dataclass(frozen=True)
class Compute:
    """One operation of the model. lane: CPU or NPU. restore: the weights that it needs and that are not there, in parts
    that come one after another."""

    name: str
    lane: str
    seconds: float = 0.0
    restore: tuple[Restore, ...] = ()


def graph(chain: Sequence[Compute]) -> tuple[list[Op], list[int]]:
    """All operations in topological order, and the number of each compute operation among them. Raises BadInput for
    durations below zero."""
    ops: list[Op] = []
    numbers: list[int] = []
    before: tuple[int, ...] = ()  # the last allocation: blocks are adjacent
    for compute in chain:
        name, needs = compute.name, (numbers[-1],) if numbers else ()
        itself = len(ops) + sum(3 if part.sealed else 2 for part in compute.restore)
        for part in compute.restore:
            first, pieces = len(ops), part.pieces
            ops.append(Op(f"alloc {name}", CPU, "alloc", part.alloc, before, pieces[0], itself))
            ops.append(Op(f"read {name}", IO, "read", part.read, (first,), 1, itself))
            if part.sealed:
                ops.append(
                    Op(f"decrypt {name}", CPU, "decrypt", part.decrypt, (first + 1,), pieces[1], itself)
                )
            before, needs = (first,), (*needs, len(ops) - 1)
        ops.append(Op(name, compute.lane, "compute", compute.seconds, needs, serves=itself))
        numbers.append(itself)
    check(ops)
    return ops, numbers


class Restoration:
    """A schedule (see `devices.simulate.pipeline.Schedule`) under a policy.

    serial: everything is allocated, then read, then decrypted, then computed, one thing at a time. fifo: each lane does
    what became ready first. priority: the processor does what the model computes first, else what restores weights for
    the earliest operation that waits for them. preempt: the same, and it may leave off between pieces of an allocation
    or a decryption. Storage and accelerator go in topological order. Raises BadInput for another policy.
    """

    def __init__(self, ops: Sequence[Op], policy: Policy) -> None:
        if policy not in POLICIES:
            raise BadInput(f"no policy {policy!r}; there are: {', '.join(POLICIES)}")
        check(ops)
        self.policy = policy
        whole = policy != "preempt"
        self.ops: Sequence[Op] = [replace(op, pieces=1) if whole else op for op in ops]
        self._left = [op.pieces for op in self.ops]
        self._waits = [len(op.needs) for op in self.ops]
        self._after: list[list[int]] = [[] for _ in self.ops]
        for number, op in enumerate(self.ops):
            for need in op.needs:
                self._after[need].append(number)
        self._ready = [
            number for number, waits in enumerate(self._waits) if not waits
        ]  # in order of becoming so
        self._running: dict[str, int] = {}
        self._undone = len(self.ops)
        self._order = sorted(
            range(len(self.ops)), key=lambda number: (_PHASES.index(self.ops[number].kind), number)
        )  # of the serial policy

    @property
    def over(self) -> bool:
        return not self._undone

    def is_over(self, number: int) -> bool:
        """Whether an operation is over."""
        return not self._left[number]

    def next(self, lane: str) -> int | None:
        if lane in self._running:
            return None
        if self.policy == "serial":
            first = self._order[len(self.ops) - self._undone] if self._undone else None
            free = first is not None and not self._running and self.ops[first].lane == lane
            return first if free else None
        ready = [number for number in self._ready if self.ops[number].lane == lane]
        if lane != CPU:
            return min(ready, default=None)
        if self.policy == "fifo":
            return ready[0] if ready else None
        return min(ready, key=self._urgency, default=None)

    def start(self, number: int) -> None:
        self._running[self.ops[number].lane] = number
        self._ready.remove(number)

    def finish(self, number: int) -> None:
        del self._running[self.ops[number].lane]
        self._left[number] -= 1
        if self._left[number]:
            self._ready.append(number)
            return
        self._undone -= 1
        for after in self._after[number]:
            self._waits[after] -= 1
            if not self._waits[after]:
                self._ready.append(after)

    def _urgency(self, number: int) -> tuple[bool, int, int]:
        op = self.ops[number]
        return op.kind != "compute", op.serves, number
