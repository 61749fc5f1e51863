"""Preparation: a graph becomes packed weights, one arena and a list of steps, and a run is nothing but those steps.

Knows graphs, layouts of tensors and steps. Which scheme is chosen by a selector, which backend by the scheduler, which
offset by the memory planner.

Source: MNN (Jiang et al. 2020), section 3.2, "preparation-execution decoupling".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.kernels.convolution import ConvShape
from ondevice.kernels.network import Network, make_arena, multiple_of_16
from ondevice.runtime.preinfer.backends import Operator, schedule
from ondevice.runtime.preinfer.graph import Graph, Node, fuse
from ondevice.runtime.preinfer.memory import Lifetime, MemoryPlan, plan_memory
from ondevice.runtime.preinfer.schemes import Choice, Rates

Floats = npt.NDArray[np.float32]
Run = Callable[[Sequence[Floats]], Sequence[Floats]]
FALLBACK = 1  # the second backend of the scheduler


class Chooser(Protocol):
    """As schemes.Selector."""

    rates: Rates

    def choose(self, shape: ConvShape, *, planar: bool = False) -> Choice: ...


class Fallback(Protocol):
    """A backend for what has no kernel here, or is cheaper there. Tensors come and go in their ONNX layout."""

    name: str

    def seconds(self, node: Node, graph: Graph) -> float:
        """Modelled time of a node; infinite where it cannot run."""
        ...

    def open(self, node: Node, graph: Graph) -> Run:
        """What runs a node."""
        ...


@dataclass(frozen=True)
class Row:
    """How one node runs. choice: of a convolution."""

    node: Node
    backend: str
    choice: Choice | None


@dataclass
class _Slot:
    """A buffer and the steps that it lives through."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class _Step:
    """emit: adds it to the network, given offsets of buffers. call: runs it elsewhere, on an arena, `at` offsets."""

    emit: Callable[[Sequence[int]], None] | None
    call: Callable[..., None] | None = None


class Prepared:
    """A network that is ready to run at one input size.

    rows: how each node runs. memory: the plan of the arena, in floats. Raises UnsupportedModel for an operator
    that has no kernel where there is no fallback.
    """

    def __init__(
        self, graph: Graph, chooser: Chooser, *, threads: int = 1, instruction_set: str | None = None,
        fallback: Fallback | None = None,
    ) -> None:  # fmt: skip
        self.graph = graph = fuse(graph)
        self._network = Network(threads, instruction_set)
        if self._network.lanes != chooser.rates.lanes:
            lanes = (chooser.rates.lanes, self._network.lanes)
            raise BadInput(
                f"rates for vectors of {lanes[0]}, kernels of {lanes[1]}; measure them with these kernels"
            )
        self._chooser, self._fallback = chooser, fallback
        self._slots: list[_Slot] = []
        self._steps: list[_Step] = []
        self._forms: dict[tuple[str, bool], int] = {}  # (tensor, blocked) to slot
        self.rows: list[Row] = []
        for name in graph.inputs:
            self._forms[name, False] = self._slot(prod(graph.shapes[name]))
        for node, side in zip(graph.nodes, self._schedule(), strict=True):
            if side == FALLBACK:
                self._outside(node)
            else:
                self._inside(node)
        ends = {name: self._read(name, False) for name in graph.outputs}
        for slot in ends.values():
            self._slots[slot].last = len(self._steps)
        lifetimes = [Lifetime(slot.size, slot.first, slot.last) for slot in self._slots]
        self.memory: MemoryPlan = plan_memory(lifetimes, alignment=16)
        offsets = self.memory.offsets
        self._ends = {name: offsets[slot] for name, slot in ends.items()}
        self._starts = {name: offsets[self._forms[name, False]] for name in graph.inputs}
        self._runs = self._emit_all(offsets)
        self.arena = make_arena(self.memory.size)

    @property
    def results(self) -> int:
        """Floats of all results, each in memory of its own: what the arena saves."""
        nodes, shapes = self.graph.nodes, self.graph.shapes
        return sum(prod(shapes[name]) for node in nodes if node.kind != "view" for name in node.outputs)

    def run(self, inputs: Mapping[str, Floats]) -> dict[str, Floats]:
        """Outputs by name. inputs: float32 by name, of the prepared shapes. Raises BadInput for others."""
        shapes = self.graph.shapes
        for name in self.graph.inputs:
            value = inputs.get(name)
            if value is None or value.shape != shapes[name] or value.dtype != np.float32:
                given = "nothing" if value is None else f"{value.dtype} {value.shape}"
                raise BadInput(
                    f"{name} was prepared for float32 {shapes[name]}, not {given}; prepare it again"
                )
            start = self._starts[name]
            self.arena[start : start + value.size] = value.reshape(-1)
        for run in self._runs:
            run(self.arena)
        return {
            name: self.arena[at : at + prod(shapes[name])].reshape(shapes[name]).copy()
            for name, at in self._ends.items()
        }

    def _schedule(self) -> tuple[int, ...]:
        """The backend of each node."""
        graph, fallback, rates = self.graph, self._fallback, self._chooser.rates
        made = {name: number for number, node in enumerate(graph.nodes) for name in node.outputs}
        operators = []
        for node in graph.nodes:
            here = self._seconds(node)
            there = fallback.seconds(node, graph) if fallback else float("inf")
            if min(here, there) == float("inf"):
                reason = (
                    "and no fallback backend" if fallback is None else f"and {fallback.name} has none either"
                )
                raise UnsupportedModel(f"{node.name or node.kind}: no kernel here {reason}")
            floats = sum(prod(graph.shapes[name]) for name in node.outputs)
            copy = 4 * floats / rates.lanes * rates.operation + rates.step  # a transposition
            inputs = tuple(made[name] for name in node.inputs if name in made)
            operators.append(Operator((here, there), inputs, copy))
        return schedule(operators).backends

    def _seconds(self, node: Node) -> float:
        """Modelled time here; infinite where there is no kernel."""
        rates = self._chooser.rates
        if node.kind == "conv":
            assert node.shape is not None
            if node.shape.groups > 1 and not node.shape.depthwise:
                return float("inf")
            return self._chooser.choose(node.shape, planar=self._planar(node)).seconds
        if node.kind == "other":
            return float("inf")
        if node.kind == "view":
            return 0.0
        taps = node.shape.taps if node.shape is not None else 2 * len(node.inputs)
        vectors = prod(self.graph.shapes[node.outputs[0]]) / rates.lanes
        return vectors * (2 * taps + 1) * rates.operation + rates.step

    def _planar(self, node: Node) -> bool:
        """Whether a convolution reads an input of the graph as it comes: fewer channels than a vector has lanes."""
        assert node.shape is not None
        return (
            node.inputs[0] in self.graph.inputs
            and node.shape.channels < self._chooser.rates.lanes
            and not node.shape.depthwise
        )

    def _inside(self, node: Node) -> None:
        choice = None
        if node.kind == "conv":
            choice = self._convolution(node)
        elif node.kind == "pool":
            self._pool(node)
        elif node.kind == "concat":
            self._concat(node)
        elif node.kind == "view":
            self._view(node)
        else:
            self._add(node)
        self.rows.append(Row(node, "native", choice))

    def _convolution(self, node: Node) -> Choice:
        shape, weights, network = node.shape, node.weights, self._network
        assert shape is not None
        assert weights is not None
        planar = self._planar(node)
        choice = self._chooser.choose(shape, planar=planar)
        source = self._read(node.inputs[0], not planar)
        residual = self._read(node.inputs[1], True) if node.residual else None
        target = self._write(node.outputs[0], True)
        scratch = self._slot(network.scratch(shape, choice.scheme, planar=planar))

        def emit(at: Sequence[int]) -> None:
            network.convolution(
                shape, choice.scheme, weights, node.bias, input=at[source], output=at[target], scratch=at[scratch],
                residual=None if residual is None else at[residual], low=node.low, high=node.high, planar=planar,
            )  # fmt: skip

        self._append(_Step(emit), source, *(() if residual is None else (residual,)))
        return choice

    def _pool(self, node: Node) -> None:
        shape, network = node.shape, self._network
        assert shape is not None
        source, target = self._read(node.inputs[0], True), self._write(node.outputs[0], True)

        def emit(at: Sequence[int]) -> None:
            settings = {"average": node.average, "count_padding": node.count_padding}
            network.pool(shape, input=at[source], output=at[target], **settings)

        self._append(_Step(emit), source)

    def _add(self, node: Node) -> None:
        """Also a clip, of one input."""
        blocked, network = any((name, True) in self._forms for name in node.inputs), self._network
        slots = [self._read(name, blocked) for name in node.inputs]
        target = self._write(node.outputs[0], blocked)
        floats = multiple_of_16(self._slots[target].size)

        def emit(at: Sequence[int]) -> None:
            other = at[slots[1]] if len(slots) > 1 else None
            network.add(at[slots[0]], other, output=at[target], floats=floats, low=node.low, high=node.high)

        self._append(_Step(emit), *slots)

    def _concat(self, node: Node) -> None:
        """Along channels: of blocked tensors where all but the last fill their blocks."""
        shapes, network = self.graph.shapes, self._network
        lanes, out = network.lanes, shapes[node.outputs[0]]
        blocked = all(shapes[name][1] % lanes == 0 for name in node.inputs[:-1])
        unit = lanes if blocked else 1
        slots = [self._read(name, blocked) for name in node.inputs]
        target = self._write(node.outputs[0], blocked)
        sizes = [-(-shapes[name][1] // unit) * unit * prod(out[2:]) for name in node.inputs]

        def emit(at: Sequence[int]) -> None:
            begin = at[target]
            for slot, size in zip(slots, sizes, strict=True):
                network.copy(
                    input=at[slot],
                    output=begin,
                    images=out[0],
                    floats=size,
                    in_stride=size,
                    out_stride=sum(sizes),
                )
                begin += size

        self._append(_Step(emit), *slots)

    def _view(self, node: Node) -> None:
        """The same buffer under another name; a blocked one where channels alone are left."""
        (source,), (target,) = node.inputs, node.outputs
        before, after = self.graph.shapes[source], self.graph.shapes[target]
        flat = before[:2] == after[:2] and prod(before) == prod(before[:2])
        if flat and (source, True) in self._forms:
            self._forms[target, True] = self._read(source, True)
        else:
            self._forms[target, False] = self._read(source, False)

    def _outside(self, node: Node) -> None:
        """A node on the fallback backend, which sees planar tensors."""
        assert self._fallback is not None
        shapes, run = self.graph.shapes, self._fallback.open(node, self.graph)
        sources = [(self._read(name, False), shapes[name]) for name in node.inputs]
        targets = [(self._write(name, False), shapes[name]) for name in node.outputs]

        def call(arena: Floats, at: Sequence[int]) -> None:
            values = run([arena[at[slot] : at[slot] + prod(shape)].reshape(shape) for slot, shape in sources])
            for value, (slot, shape) in zip(values, targets, strict=True):
                arena[at[slot] : at[slot] + prod(shape)] = value.reshape(-1)

        self._append(_Step(None, call), *(slot for slot, _ in sources))
        self.rows.append(Row(node, self._fallback.name, None))

    def _slot(self, floats: int) -> int:
        """A buffer that lives from the next step on."""
        self._slots.append(_Slot(floats, len(self._steps), len(self._steps)))
        return len(self._slots) - 1

    def _write(self, name: str, blocked: bool) -> int:
        """A buffer for a result, which the next step makes."""
        shape = self.graph.shapes[name]
        floats = self._network.size(*_sizes(shape)) if blocked else multiple_of_16(prod(shape))
        self._forms[name, blocked] = self._slot(floats)
        return self._forms[name, blocked]

    def _read(self, name: str, blocked: bool) -> int:
        """The buffer that holds a tensor in a layout; converted where it is in the other one alone."""
        network = self._network
        if (name, blocked) not in self._forms:
            source = self._read(name, not blocked)
            images, channels, pixels = _sizes(self.graph.shapes[name])
            target = self._write(name, blocked)

            def emit(at: Sequence[int]) -> None:
                network.layout(
                    input=at[source], output=at[target], images=images, channels=channels, pixels=pixels,
                    to_blocks=blocked,
                )  # fmt: skip

            self._append(_Step(emit), source)
        return self._forms[name, blocked]

    def _append(self, step: _Step, *reads: int) -> None:
        for slot in reads:
            self._slots[slot].last = len(self._steps)
        self._steps.append(step)

    def _emit_all(self, offsets: Sequence[int]) -> list[Callable[[Floats], None]]:
        """Calls that run the steps: one for each run of native steps, one for each other."""
        runs: list[Callable[[Floats], None]] = []
        begin = 0

        def flush() -> None:
            nonlocal begin
            if self._network.steps > begin:
                runs.append(partial(self._network.run, steps=(begin, self._network.steps)))
                begin = self._network.steps

        for step in self._steps:
            if step.emit is not None:
                step.emit(offsets)
            else:
                flush()
                assert step.call is not None
                runs.append(partial(step.call, at=offsets))
        flush()
        return runs


def _sizes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(images, channels, pixels)."""
    return shape[0], shape[1], prod(shape[2:])
