"""Experts in nested bits: each token runs its experts at widths of its own, plane by plane as planes come.

Knows shapes, planes and which tokens need them. Knows nothing of where planes come from (`PlaneSource`), nor of the
order in which they are read. A token's result does not depend on any of that: sums stay integers until all planes of
its width are in.

Source: the D2MoE paper, sections on Matryoshka weights and on scheduling. There a plane is added to the output as it
comes; here the down projection waits for the gate, as its input is only known then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.kernels.planes import NestedShape, PlaneProducts, Rounded
from ondevice.runtime.moe.bits import BitRouter
from ondevice.runtime.projection import Tensors, find

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
PARTS = ("gate_proj", "up_proj", "down_proj")
Need = tuple[int, int, int]  # expert, plane (0 for the base), tokens of the batch that need it


@dataclass(frozen=True)
class Plane:
    """The base of an expert, or one of its planes, as stored."""

    gate: Bytes
    up: Bytes
    down: Bytes


class PlaneSource(Protocol):
    """Where a layer's planes come from."""

    def ask(self, needs: Sequence[Need]) -> Iterator[tuple[int, int, Plane]]:
        """Begin to bring these, each expert's planes lowest first; (expert, plane, what it is) as they come. They stay
        where they are until all of the same expert have come and the next is taken."""


@dataclass(frozen=True)
class HeldPlanes:
    """Planes that are always there: planes[expert][number]."""

    planes: Sequence[Sequence[Plane]]

    def ask(self, needs: Sequence[Need]) -> Iterator[tuple[int, int, Plane]]:
        return ((expert, number, self.planes[expert][number]) for expert, number, _ in needs)


@dataclass(frozen=True)
class NestedShapes:
    """Of the three matrices of an expert; all experts of a model are alike."""

    gate: NestedShape
    up: NestedShape
    down: NestedShape

    def of(self, part: str) -> NestedShape:
        return dict(zip(PARTS, (self.gate, self.up, self.down), strict=True))[part]


Worked = Callable[[int, Need, float], None]


@dataclass(frozen=True)
class NestedExperts:
    """source: of the planes. bits: which widths tokens take; all bits where there is none. worked: told the layer, the
    plane and the seconds of each plane's products, where somebody wants to know."""

    layer: int
    shapes: NestedShapes
    source: PlaneSource
    bits: BitRouter | None
    products: PlaneProducts
    worked: list[Worked] = field(default_factory=list)

    def apply(self, kernels: Kernels, x: Floats, chosen: npt.NDArray[np.int64], gate: str) -> Floats:
        """What each of its experts gives a token, (used, tokens, hidden), for x (tokens, hidden) and chosen (tokens,
        used)."""
        top = self.shapes.gate.planes
        steps = np.full(chosen.shape, top) if self.bits is None else self.bits.steps(kernels, x, chosen)
        out = np.empty((chosen.shape[1], len(x), self.shapes.down.rows), np.float32)
        running: dict[int, _Running] = {}
        needs: list[Need] = []
        for expert in np.unique(chosen).tolist():
            tokens, ranks = np.nonzero(chosen == expert)
            of_token = steps[tokens, ranks]
            order = np.argsort(
                -of_token, kind="stable"
            )  # those that need most planes first: a plane takes a prefix
            tokens, ranks = tokens[order], ranks[order]
            counts = [int((of_token >= plane).sum()) for plane in range(int(of_token.max()) + 1)]
            rows = np.ascontiguousarray(x[tokens])
            running[expert] = _Running(self, kernels, gate, rows, counts, out, tokens, ranks)
            needs += [(expert, plane, count) for plane, count in enumerate(counts)]
        for expert, number, plane in self.source.ask(needs):
            started = perf_counter()
            running[expert].add(number, plane)
            for tell in self.worked:
                tell(self.layer, (expert, number, running[expert].counts[number]), perf_counter() - started)
        return out


class _Running:
    """An expert's tokens, the most demanding first, and what of it has come."""

    def __init__(
        self,
        experts: NestedExperts,
        kernels: Kernels,
        gate: str,
        x: Floats,
        counts: list[int],
        out: Floats,
        tokens: npt.NDArray[np.int64],
        ranks: npt.NDArray[np.int64],
    ) -> None:
        self._experts, self._kernels, self._gate = experts, kernels, gate
        self.counts, self._out, self._tokens, self._ranks = counts, out, tokens, ranks
        shapes, products = experts.shapes, experts.products
        self._x = products.round(x, shapes.gate.group_size)
        self._sums = products.sums(len(x), shapes.gate), products.sums(len(x), shapes.up)
        self._there: dict[int, Plane] = {}
        self._done = 0  # widths whose tokens are finished, lowest first

    def add(self, number: int, plane: Plane) -> None:
        """A plane is there: add its products, and finish the tokens that waited for no more."""
        shapes, products, count = self._experts.shapes, self._experts.products, self.counts[number]
        products.add(shapes.gate, number, plane.gate, self._x, count, self._sums[0])
        products.add(shapes.up, number, plane.up, self._x, count, self._sums[1])
        self._there[number] = plane
        while self._done in self._there:
            stop = self.counts[self._done]
            first = self.counts[self._done + 1] if self._done + 1 < len(self.counts) else 0
            if first < stop:
                self._finish(first, stop)
            self._done += 1

    def _finish(self, first: int, stop: int) -> None:
        """Tokens [first, stop) have all planes that they need, up to `self._done`."""
        shapes, products, rows = self._experts.shapes, self._experts.products, slice(first, stop)
        x, base = _rows(self._x, rows), self._there[0]
        wide = np.concatenate(
            [
                products.finish(shapes.gate, base.gate, x, self._sums[0][rows]),
                products.finish(shapes.up, base.up, x, self._sums[1][rows]),
            ],
            axis=1,
        )
        inner = products.round(self._kernels.gated(wide, self._gate), shapes.down.group_size)
        sums = products.sums(stop - first, shapes.down)
        for number in range(self._done + 1):
            products.add(shapes.down, number, self._there[number].down, inner, stop - first, sums)
        self._out[self._ranks[rows], self._tokens[rows]] = products.finish(
            shapes.down, base.down, inner, sums
        )


def _rows(x: Rounded, rows: slice) -> Rounded:
    ours = None if x.reference is None else (x.reference[0][rows], x.reference[1][rows])
    return Rounded(x.stored[rows] if x.stored.size else x.stored, x.sums[rows], rows.stop - rows.start, ours)


def is_nested(tensors: Tensors, stem: str) -> bool:
    """Whether the experts whose tensors begin with this are stored in nested bits."""
    name = f"{stem}.0.{PARTS[0]}.weight"
    return name in tensors and bool(tensors[name].format.get("planes"))


def read_shapes(tensors: Tensors, stem: str, count: int) -> NestedShapes:
    """Of a layer's experts. Raises BadArtifact where they differ or do not fit together, or a plane is missing."""
    found = set()
    for expert in range(count):
        shapes = []
        for part in PARTS:
            form = find(tensors, f"{stem}.{expert}.{part}.weight").format
            try:
                sizes: list[Any] = [form[key] for key in ("rows", "columns", "bits", "group_size", "planes")]
                shapes.append(NestedShape(*map(int, sizes)))
            except (KeyError, TypeError, ValueError, BadInput) as problem:
                raise BadArtifact(f"{stem}.{expert}.{part} is not in nested bits: {problem}") from problem
            for number in range(1, shapes[-1].planes + 1):
                if f"{stem}.{expert}.{part}.plane{number}" not in tensors:
                    raise BadArtifact(f"tensor {stem}.{expert}.{part}.plane{number} is missing")
        found.add(NestedShapes(*shapes))
    if len(found) != 1:
        raise BadArtifact(f"{stem}: experts are stored at different widths or sizes")
    [shapes_of] = found
    gate, up, down = shapes_of.gate, shapes_of.up, shapes_of.down
    if (gate.rows, gate.columns) != (up.rows, up.columns) or (down.rows, down.columns) != (
        gate.columns,
        gate.rows,
    ):
        raise BadArtifact(f"{stem}: gate, up and down do not fit together")
    if not gate.widths == up.widths == down.widths or gate.group_size != up.group_size:
        raise BadArtifact(f"{stem}: gate, up and down have different widths or groups")
    return shapes_of


def plane_of(tensors: Tensors, stem: str, expert: int, number: int) -> Plane:
    """A plane whose tensors are in memory."""
    leaf = f"plane{number}" if number else "weight"
    return Plane(*(find(tensors, f"{stem}.{expert}.{part}.{leaf}").array for part in PARTS))
