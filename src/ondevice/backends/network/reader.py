"""An ONNX file as a graph of the engine, for one input size.

Knows ONNX. Knows nothing of schemes or of how anything runs: what has no kernel becomes an `other` node. Every node
keeps its ONNX form for a fallback.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra, UnsupportedModel
from ondevice.kernels.convolution import ConvShape
from ondevice.runtime.preinfer.graph import Graph, Node

Array = npt.NDArray[Any]
_VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Dropout")
_POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


class OnnxFile:
    """A model as it was read. inputs: {name: sizes, None where any will do}.

    Raises MissingExtra without the package onnx, BadInput for a file that is none, UnsupportedModel for inputs
    that are not float32.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import onnx
            from onnx import numpy_helper
        except ImportError as error:
            raise MissingExtra("onnx", "onnx", "to read ONNX files") from error
        try:
            model = onnx.load(str(path))
            onnx.checker.check_model(model)
        except Exception as problem:  # protobuf and the checker raise classes of their own
            raise BadInput(f"{path} is not an ONNX model that can be read: {problem}") from problem
        self.path = Path(path)
        graph = model.graph
        self.constants: dict[str, Array] = {it.name: numpy_helper.to_array(it) for it in graph.initializer}
        self.inputs: dict[str, tuple[int | None, ...]] = {}
        for value in graph.input:
            if value.name in self.constants:
                continue
            if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
                raise UnsupportedModel(
                    f"the input {value.name} is not float32; this engine reads images and signals"
                )
            sizes = value.type.tensor_type.shape.dim
            self.inputs[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in sizes)

        self.model = _without_weights(model)

    def shapes(self, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Sizes of all inputs: the file's own, and `given` ones for what it leaves open (batches of 1 otherwise)."""
        found = {}
        for name, sizes in self.inputs.items():
            wanted = given.get(name)
            if wanted is None:
                if None in sizes[1:]:
                    raise BadInput(
                        f"{self.path.name} leaves sizes of {name} open ({sizes}); say --shape 1,3,224,224"
                    )
                wanted = tuple(size or 1 for size in sizes)
            fits = len(wanted) == len(sizes) and all(
                s in (None, w) for s, w in zip(sizes, wanted, strict=False)
            )
            if not fits or min(wanted, default=1) < 1:
                raise BadInput(f"{name} takes {sizes}, not {wanted}")
            found[name] = tuple(wanted)
        return found

    def graph(self, given: Mapping[str, tuple[int, ...]]) -> Graph:
        """The graph for inputs of these sizes. Raises UnsupportedModel where a size depends on values."""
        from onnx import shape_inference

        shapes = self.shapes(given)
        model = type(self.model)()
        model.CopyFrom(self.model)
        for value in model.graph.input:
            if value.name in shapes:
                for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=True):
                    dim.dim_value = size
        del model.graph.value_info[:]  # sizes of another input
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        model = shape_inference.infer_shapes(model, data_prop=True)
        return _Reader(model, self.constants, shapes).graph()


def _without_weights(model: Any) -> Any:
    """Weights as inputs of the same names and sizes, so that sizes are worked out without copying values about.

    Few values stay: they may be sizes or scales.
    """
    from onnx import TensorProto, helper

    graph, known = model.graph, {value.name for value in model.graph.input}
    floats = [it for it in graph.initializer if it.data_type == TensorProto.FLOAT and math.prod(it.dims) > 64]
    large = {it.name for it in floats}
    others = [it for it in graph.initializer if it.name not in large]
    del graph.initializer[:]
    graph.initializer.extend(others)
    for tensor in floats:
        if tensor.name not in known:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


class _Reader:
    def __init__(
        self, model: Any, constants: Mapping[str, Array], inputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.model, self.constants = model, dict(constants)
        self.shapes: dict[str, tuple[int, ...]] = dict(inputs)
        for value in [*model.graph.value_info, *model.graph.output]:
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.elem_type != 1:  # float32
                continue
            if value.type.tensor_type.HasField("shape") and all(dim.dim_value > 0 for dim in dims):
                self.shapes[value.name] = tuple(dim.dim_value for dim in dims)
        self.inputs = tuple(inputs)
        self.nodes: list[Node] = []

    def graph(self) -> Graph:
        for proto in self.model.graph.node:
            if self._folded(proto):
                continue
            for name in proto.output[:1]:
                if name not in self.shapes:
                    raise UnsupportedModel(
                        f"{proto.op_type} {proto.name}: the size of its result depends on values, or it is not float32"
                    )
            self.nodes.append(self._node(proto))
        outputs = tuple(value.name for value in self.model.graph.output)
        return Graph(tuple(self._live(outputs)), self.shapes, self.inputs, outputs)

    def _folded(self, proto: Any) -> bool:
        """Whether a node's results are known before any input is: they become constants."""
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        if proto.op_type == "Shape" and proto.input[0] in self.shapes:
            sizes = {it.name: helper.get_attribute_value(it) for it in proto.attribute}
            shape = self.shapes[proto.input[0]][sizes.get("start", 0) : sizes.get("end")]
            self.constants[proto.output[0]] = np.array(shape, np.int64)
            return True
        if any(name and name not in self.constants for name in proto.input):
            return False
        named = {name: self.constants[name] for name in proto.input if name}
        values = ReferenceEvaluator(proto).run(None, named)
        self.constants.update(zip(proto.output, values, strict=True))
        return True

    def _live(self, outputs: tuple[str, ...]) -> list[Node]:
        """Nodes that lead to an output."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        return kept[::-1]

    def _node(self, proto: Any) -> Node:
        from onnx import helper

        settings = {it.name: helper.get_attribute_value(it) for it in proto.attribute}
        made: Node | None = None
        if proto.op_type == "Conv":
            made = self._conv(proto, settings)
        elif proto.op_type == "BatchNormalization":
            made = self._normalization(proto, settings)
        elif proto.op_type in ("Relu", "Clip"):
            made = self._clip(proto, settings)
        elif proto.op_type in _POOLS:
            made = self._pool(proto, settings)
        elif proto.op_type in ("Gemm", "MatMul"):
            made = self._product(proto, settings)
        elif proto.op_type == "Add" and not set(proto.input) & set(self.constants):
            if self._ranked(*proto.input) and self.shapes[proto.input[0]] == self.shapes[proto.input[1]]:
                made = self._plain("add", proto)
        elif proto.op_type == "Concat" and settings["axis"] in (1, 1 - len(self.shapes[proto.output[0]])):
            if self._ranked(*proto.input):
                made = self._plain("concat", proto)
        elif proto.op_type in _VIEWS and proto.input[0] in self.shapes:
            made = self._plain("view", proto, inputs=proto.input[:1])
        return made or self._plain("other", proto)

    def _plain(self, kind: str, proto: Any, inputs: Any = None, **fields: Any) -> Node:
        names = proto.input if inputs is None else inputs
        tensors = tuple(name for name in names if name and name not in self.constants)
        outputs = tuple(name for name in proto.output if name in self.shapes)
        name = proto.name or proto.output[0]
        return Node(kind, tensors, outputs, name=name, payload=(self._outside(proto),), **fields)

    def _outside(self, proto: Any) -> tuple[Any, dict[str, Array]]:
        """What a fallback runs: the node, and the constants that it reads."""
        return proto, {name: self.constants[name] for name in proto.input if name in self.constants}

    def _ranked(self, *names: str) -> bool:
        """Whether these are results of (batch, channels, ...), which can be blocked."""
        return all(len(self.shapes.get(name, ())) in (2, 4) for name in names)

    def _conv(self, proto: Any, settings: Mapping[str, Any]) -> Node | None:
        source, weights, *rest = proto.input
        if (
            weights not in self.constants
            or len(self.shapes.get(source, ())) != 4
            or set(rest) - set(self.constants)
        ):
            return None
        values = _floats(self.constants[weights])
        shape = self._window(proto, settings, values.shape[2:], values.shape[0], settings.get("group", 1))
        bias = _floats(self.constants[rest[0]]) if rest and rest[0] else None
        return self._plain("conv", proto, inputs=[source], shape=shape, weights=values, bias=bias)

    def _window(
        self, proto: Any, settings: Mapping[str, Any], kernel: Any, outputs: int, groups: int
    ) -> ConvShape:
        batch, channels, height, width = self.shapes[proto.input[0]]
        stride = tuple(settings.get("strides", (1, 1)))
        dilation = tuple(settings.get("dilations", (1, 1)))
        pads = list(settings.get("pads", (0, 0, 0, 0)))
        auto = settings.get("auto_pad", b"NOTSET").decode()
        out = self.shapes[proto.output[0]][2:]
        if auto.startswith("SAME"):
            for axis, (size, out_size) in enumerate(zip((height, width), out, strict=True)):
                need = max(0, (out_size - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size)
                first = need // 2 if auto == "SAME_UPPER" else need - need // 2
                pads[axis], pads[axis + 2] = first, need - first
        for axis, size in enumerate(
            (height, width)
        ):  # ceil_mode: as much padding as the last window reaches over
            reach = (
                (out[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size - pads[axis]
            )
            if settings.get("ceil_mode"):
                pads[axis + 2] = max(pads[axis + 2], reach)
        return ConvShape(
            batch,
            channels,
            outputs,
            height,
            width,
            tuple(kernel),
            stride,
            tuple(pads),
            dilation,
            groups,  # type: ignore[arg-type]
        )

    def _normalization(self, proto: Any, settings: Mapping[str, Any]) -> Node | None:
        """Folded into the convolution before it, where nobody else reads that."""
        source, *names = proto.input
        if any(name not in self.constants for name in names) or len(self.shapes.get(source, ())) != 4:
            return None
        scale, offset, mean, variance = (self.constants[name].astype(np.float64) for name in names)
        factor = scale / np.sqrt(variance + settings.get("epsilon", 1e-5))
        shift = offset - mean * factor
        before = self.nodes[-1] if self.nodes else None
        readers = sum(list(it.input).count(source) for it in self.model.graph.node)
        visible = any(value.name == source for value in self.model.graph.output)
        if before is None or before.kind != "conv" or source not in before.outputs or readers > 1 or visible:
            channels = len(factor)
            batch, _, height, width = self.shapes[source]
            shape = ConvShape(batch, channels, channels, height, width, (1, 1), groups=channels)
            if channels == 1:
                return None
            weights = factor.astype(np.float32).reshape(-1, 1, 1, 1)
            return self._plain(
                "conv", proto, inputs=[source], shape=shape, weights=weights, bias=shift.astype(np.float32)
            )
        assert before.weights is not None
        bias = 0.0 if before.bias is None else before.bias.astype(np.float64)
        self.nodes.pop()
        return Node(
            "conv", before.inputs, (proto.output[0],), before.shape, name=before.name,
            weights=(before.weights * factor[:, None, None, None]).astype(np.float32),
            bias=(bias * factor + shift).astype(np.float32), payload=(*before.payload, self._outside(proto)),
        )  # fmt: skip

    def _clip(self, proto: Any, settings: Mapping[str, Any]) -> Node | None:
        if not self._ranked(proto.input[0]):
            return None
        if proto.op_type == "Relu":
            return self._plain("clip", proto, low=0.0)
        limits = [settings.get("min"), settings.get("max")]
        for i, name in enumerate(proto.input[1:3]):
            if name and name not in self.constants:
                return None
            limits[i] = self.constants[name].item() if name else None
        low, high = limits
        fields = {
            "low": -np.inf if low is None else float(low),
            "high": np.inf if high is None else float(high),
        }
        return self._plain("clip", proto, inputs=proto.input[:1], **fields)

    def _pool(self, proto: Any, settings: Mapping[str, Any]) -> Node | None:
        source = self.shapes.get(proto.input[0], ())
        if len(source) != 4 or (len(proto.output) > 1 and proto.output[1]):
            return None
        kernel = source[2:] if proto.op_type.startswith("Global") else settings["kernel_shape"]
        average = "Average" in proto.op_type
        if average and settings.get("ceil_mode") and settings.get("count_include_pad"):
            return None  # counts some of the padding and not the rest
        shape = self._window(proto, settings, kernel, source[1], source[1])
        counted = bool(settings.get("count_include_pad"))
        return self._plain("pool", proto, shape=shape, average=average, count_padding=counted)

    def _product(self, proto: Any, settings: Mapping[str, Any]) -> Node | None:
        """A matrix product with constants is a convolution of single pixels."""
        source, other, *rest = proto.input
        if other not in self.constants or len(self.shapes.get(source, ())) != 2 or settings.get("transA"):
            return None
        if any(name not in self.constants for name in rest if name) or self.constants[other].ndim != 2:
            return None
        matrix = _floats(self.constants[other]) * np.float32(settings.get("alpha", 1.0))
        matrix = matrix if settings.get("transB") else matrix.T
        bias = None
        if rest and rest[0]:
            bias = _floats(self.constants[rest[0]]) * np.float32(settings.get("beta", 1.0))
            if bias.size not in (1, len(matrix)):
                return None
            bias = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), (len(matrix),)))
        batch, inner = self.shapes[source]
        weights = np.ascontiguousarray(matrix).reshape(*matrix.shape, 1, 1)
        shape = ConvShape(batch, inner, len(matrix), 1, 1, (1, 1))
        return self._plain("conv", proto, inputs=[source], shape=shape, weights=weights, bias=bias)


def _floats(values: Array) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
