"""A network as operators on named tensors, with every size known.

Knows names, shapes and settings. Knows nothing of files, schemes or memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.kernels.convolution import ConvShape

Floats = npt.NDArray[np.float32]
INFINITY = float("inf")


@dataclass(frozen=True)
class Node:
    """An operator. What the engine has kernels for:

    conv      x, and where `residual` is set what is added: clip(conv(x) + bias + residual)
    pool      x: largest or (`average`) mean value of windows
    add       a, b: clip(a + b)
    clip      x
    concat    tensors, along channels
    view      x in another shape, values in the same order
    other     anything else

    payload: what a fallback backend runs instead, in its own form.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shape: ConvShape | None = None
    weights: Floats | None = None
    bias: Floats | None = None
    residual: bool = False
    low: float = -INFINITY
    high: float = INFINITY
    average: bool = False
    count_padding: bool = False
    name: str = ""
    payload: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Graph:
    """nodes: in an order that runs. shapes: of every tensor. inputs, outputs: their names."""

    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def one_convolution(shape: ConvShape, weights: Floats) -> Graph:
    """A network of nothing else, from x to y."""
    sizes = {"x": (shape.batch, shape.channels, shape.height, shape.width)}
    sizes["y"] = (shape.batch, shape.outputs, *shape.out_size)
    return Graph((Node("conv", ("x",), ("y",), shape, weights),), sizes, ("x",), ("y",))


def fuse(graph: Graph) -> Graph:
    """The same network with fewer passes over memory: clips and additions become part of the convolutions before them.

    A convolution takes up a clip, or an addition (its other summand must be there before it) and the clip after that,
    where nobody else reads what lies between.
    """
    nodes = list(graph.nodes)
    made = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    for number, node in enumerate(nodes):
        if node.kind not in ("clip", "add"):
            continue
        for at, name in enumerate(node.inputs):
            before = made.get(name)
            if before is None or not _alone(graph, nodes, name) or nodes[before].kind not in ("conv", "add"):
                continue
            prior = nodes[before]
            plain = (prior.low, prior.high) == (-INFINITY, INFINITY)
            if node.kind == "clip" and plain:
                joined = replace(prior, low=node.low, high=node.high, outputs=node.outputs)
            elif node.kind == "add" and prior.kind == "conv" and plain and not prior.residual:
                other = node.inputs[1 - at]
                if (
                    other == name
                    or made.get(other, -1) >= before
                    or graph.shapes[other] != graph.shapes[name]
                ):
                    continue
                joined = replace(prior, inputs=(*prior.inputs, other), residual=True, outputs=node.outputs)
                joined = replace(joined, low=node.low, high=node.high)
            else:
                continue
            nodes[before] = replace(joined, payload=(*prior.payload, *node.payload))
            nodes[number] = replace(node, kind="gone", inputs=(), outputs=())
            made[node.outputs[0]] = before
            break
    return replace(graph, nodes=tuple(node for node in nodes if node.kind != "gone"))


def _alone(graph: Graph, nodes: list[Node], tensor: str) -> bool:
    return tensor not in graph.outputs and sum(node.inputs.count(tensor) for node in nodes) == 1
