"""ONNX Runtime as the second backend of the engine: a session for each node that has no kernel, or is cheaper there.

Knows one-node models and what a call costs. Knows nothing of when it is called.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.backends.network.reader import OnnxFile
from ondevice.errors import MissingExtra, UnsupportedModel
from ondevice.runtime.preinfer.graph import Graph, Node
from ondevice.runtime.preinfer.prepare import Run

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Rates:
    """products: multiplications a second in a matrix product. values: read or written a second by a depthwise
    convolution of 3 x 3. call: seconds of a call that does nothing."""

    products: float
    values: float
    call: float


class OnnxRuntime:
    """threads: of each session. Raises MissingExtra where ONNX Runtime is not installed."""

    name = "onnxruntime"

    def __init__(self, file: OnnxFile, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "onnx", "for operators that have no kernel here") from error
        self._module: Any = onnxruntime
        self._file, self._threads = file, threads

    def seconds(self, node: Node, graph: Graph) -> float:
        """Multiplications over their rate, values read and written over theirs, and what a call takes.

        MNN's cost of a backend that must be called has the first and the last; without the second, work that is bound
        by memory, as a depthwise convolution, would look free.
        """
        rates = self._rates
        shape = node.shape if node.kind == "conv" else None
        moved = sum(prod(graph.shapes[name]) for name in (*node.inputs, *node.outputs))
        moved += 0 if node.weights is None else node.weights.size
        if shape is None or shape.depthwise:
            taps = 1 if node.shape is None else node.shape.taps
            return moved * max(1.0, taps / 9) / rates.values + rates.call
        return shape.macs / rates.products + moved / rates.values + rates.call

    def open(self, node: Node, graph: Graph) -> Run:
        session, names = self._session(node, graph)

        def run(values: Sequence[Floats]) -> Sequence[Floats]:
            made: Sequence[Floats] = session.run(None, dict(zip(names, values, strict=True)))
            return made

        return run

    @cached_property
    def _rates(self) -> _Rates:
        """Measured once, on work of fixed sizes."""
        from onnx import TensorProto, helper

        def info(name: str, *shape: int) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        def taken(node: Any, shapes: Mapping[str, tuple[int, ...]], out: tuple[int, ...]) -> float:
            inputs = [info(name, *shape) for name, shape in shapes.items()]
            session = self._open(helper.make_graph([node], node.op_type, inputs, [info("out", *out)]))
            feed = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
            return _fastest(lambda: session.run(None, feed))

        call = taken(helper.make_node("Relu", ["x"], ["out"]), {"x": (1,)}, (1,))
        square, image, filters = (256, 256), (1, 64, 56, 56), (64, 1, 3, 3)
        product = taken(helper.make_node("MatMul", ["a", "b"], ["out"]), {"a": square, "b": square}, square)
        depthwise = helper.make_node("Conv", ["x", "w"], ["out"], group=64, pads=[1, 1, 1, 1])
        moved = taken(depthwise, {"x": image, "w": filters}, image)
        return _Rates(256**3 / max(product - call, 1e-7), 2 * prod(image) / max(moved - call, 1e-7), call)

    def _session(self, node: Node, graph: Graph) -> tuple[Any, tuple[str, ...]]:
        from onnx import helper, numpy_helper

        constants = {name: value for _, each in node.payload for name, value in each.items()}
        tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        float32 = 1
        inputs = [helper.make_tensor_value_info(name, float32, graph.shapes[name]) for name in node.inputs]
        outputs = [helper.make_tensor_value_info(name, float32, graph.shapes[name]) for name in node.outputs]
        inner = helper.make_graph([proto for proto, _ in node.payload], node.name, inputs, outputs, tensors)
        return self._open(inner, self._file.model.opset_import), node.inputs

    def _open(self, graph: Any, opsets: Any = None) -> Any:
        from onnx import helper

        model = helper.make_model(graph, opset_imports=opsets or [helper.make_opsetid("", 17)])
        model.ir_version = min(model.ir_version, 10)  # older runtimes refuse newer ones
        options = self._module.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        options.log_severity_level = 3
        try:
            return self._module.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # its classes are bound from C++, one a status
            raise UnsupportedModel(f"ONNX Runtime refuses {graph.name}: {problem}") from problem


def _fastest(function: Any, runs: int = 20) -> float:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return min(taken)
