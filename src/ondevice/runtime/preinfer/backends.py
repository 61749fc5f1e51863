"""Which backend runs each operator: the cheapest assignment, copies between backends counted.

Knows costs and edges. Knows nothing of operators, or of what a backend is.

Source: MNN (Jiang et al. 2020), section 3.2, which adds the costs of operators; that two backends with copies between
them are a minimum cut, and so solved exactly, is Stone 1977.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ondevice.errors import BadInput


@dataclass(frozen=True)
class Operator:
    """costs: seconds on the first and the second backend, infinite where it cannot run. inputs: operators whose results
    it reads. copy: seconds to bring its result to the other backend, once for all who read it there."""

    costs: tuple[float, float]
    inputs: tuple[int, ...] = ()
    copy: float = 0.0


@dataclass(frozen=True)
class Assignment:
    """backends: 0 or 1 for each operator. cost: seconds, modelled."""

    backends: tuple[int, ...]
    cost: float


def cost_of(operators: Sequence[Operator], backends: Sequence[int]) -> float:
    """Seconds of an assignment: of operators, and of each result that is read on the other backend."""
    total = sum(it.costs[side] for it, side in zip(operators, backends, strict=True))
    moved = {
        i for it, side in zip(operators, backends, strict=True) for i in it.inputs if backends[i] != side
    }
    return total + sum(operators[i].copy for i in moved)


def exhaustive(operators: Sequence[Operator]) -> Assignment:
    """The cheapest of all assignments, one by one: what `schedule` is held against. For few operators."""
    best = min(product((0, 1), repeat=len(operators)), key=lambda sides: cost_of(operators, sides))
    return Assignment(best, cost_of(operators, best))


def schedule(operators: Sequence[Operator]) -> Assignment:
    """The cheapest assignment of two backends, exactly, as a minimum cut; where it is a draw, the first backend.

    Raises BadInput where an operator runs on neither backend, or costs are negative or NaN.
    """
    finite = sum(c for it in operators for c in (*it.costs, it.copy) if math.isfinite(c))
    for number, it in enumerate(operators):
        if not all(c >= 0 for c in (*it.costs, it.copy)):
            raise BadInput(f"costs are 0 or more, not {it.costs} and {it.copy} of operator {number}")
        if not math.isfinite(min(it.costs)):
            raise BadInput(f"operator {number} runs on neither backend; add one that has it")
        if any(not 0 <= i < number for i in it.inputs):
            raise BadInput(f"operator {number} reads {it.inputs}: only those before it have results")
    count, never = len(operators), 2 * finite + 1
    # Nodes: source (the first backend), sink, operators, and two for each result: "read by the other side".
    flow = _Flow(2 + 3 * count)
    for number, it in enumerate(operators):
        node, left, right = 2 + number, 2 + count + number, 2 + 2 * count + number
        flow.edge(0, node, min(it.costs[1], never))  # cut where it runs on the second
        flow.edge(node, 1, min(it.costs[0], never))
        readers = [2 + j for j, other in enumerate(operators) if number in other.inputs]
        if readers and it.copy:
            flow.edge(node, left, it.copy)
            flow.edge(right, node, it.copy)
            for reader in readers:
                flow.edge(left, reader, never)
                flow.edge(reader, right, never)
    second = flow.sink_side(0, 1)
    backends = tuple(int(second[2 + number]) for number in range(count))
    return Assignment(backends, cost_of(operators, backends))


class _Flow:
    """Maximum flow by shortest augmenting paths (Edmonds and Karp 1972)."""

    def __init__(self, nodes: int) -> None:
        self._to: list[list[int]] = [[] for _ in range(nodes)]
        self._ends: list[int] = []
        self._room: list[float] = []

    def edge(self, a: int, b: int, room: float) -> None:
        for start, end, size in ((a, b, room), (b, a, 0.0)):
            self._to[start].append(len(self._ends))
            self._ends.append(end)
            self._room.append(size)

    def sink_side(self, source: int, sink: int) -> list[bool]:
        """Nodes that can still reach the sink once the flow is at its largest."""
        least = 1e-12 * max(self._room, default=0.0)
        while True:
            by: list[int] = [-1] * len(self._to)
            queue = deque([source])
            while queue and by[sink] < 0:
                node = queue.popleft()
                for edge in self._to[node]:
                    end = self._ends[edge]
                    if self._room[edge] > least and by[end] < 0 and end != source:
                        by[end] = edge
                        queue.append(end)
            if by[sink] < 0:
                break
            path, node = [], sink
            while node != source:
                path.append(by[node])
                node = self._ends[by[node] ^ 1]
            amount = min(self._room[edge] for edge in path)
            for edge in path:
                self._room[edge] -= amount
                self._room[edge ^ 1] += amount
        reach = [False] * len(self._to)
        reach[sink], queue = True, deque([sink])
        while queue:
            for edge in self._to[queue.popleft()]:
                before = self._ends[edge]
                if not reach[before] and self._room[edge ^ 1] > least:
                    reach[before] = True
                    queue.append(before)
        return reach
