"""Linear layers and embedding tables, in whatever form an artifact stores them, as ONNX nodes.

Knows stored tensors and operators. Knows nothing of architectures or sessions.

    tiles of 1..4 bits     MatMulNBits with 4-bit codes; int8 activations a block where the layer says int8
    tiles of 5..8 bits     int8 weights with a scale a row. Activations "int8": QuantizeLinear after a division by the
                           token's own step, MatMulInteger: torch's arithmetic, exact in int32. "float":
                           DequantizeLinear and MatMul
    tables up to 4 bits    GatherBlockQuantized on 4-bit codes
    other tiled tables     Gather of int8 rows and of their scales
    sparse, dense          as they are, float16 where they are float16

On x86 processors without VNNI, ONNX Runtime's 8-bit product adds pairs in 16 bits and may saturate there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ondevice.artifact import StoredTensor
from ondevice.backends.dense import Tensors, tiled, unbanded
from ondevice.errors import BadArtifact
from ondevice.numerics.tiles import TiledMatrix

_LARGEST_BLOCK = 256  # of MatMulNBits
_INT8, _FLOAT = 4, 0  # accuracy levels of MatMulNBits


class Nodes:
    """Nodes and constants of a graph under construction; what is asked for twice is there once."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.quantized: dict[tuple[str, bytes], tuple[str, str]] = {}  # by input and input scale
        self._names: set[str] = set()

    def constant(self, name: str, value: npt.NDArray[Any] | np.generic) -> str:
        """A constant of that name, added on its first use."""
        return self._keep(name, lambda: numpy_helper.from_array(np.asarray(value), name))

    def int4(self, name: str, packed: npt.NDArray[np.uint8], shape: list[int]) -> str:
        """A constant of type int4: packed, two to a byte, the first in the low half."""
        return self._keep(
            name, lambda: helper.make_tensor(name, TensorProto.INT4, shape, packed.tobytes(), raw=True)
        )

    def add(self, operator: str, *inputs: str, out: str = "", domain: str = "", **settings: Any) -> str:
        """The output of a new node."""
        out = out or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [out], name=out, domain=domain, **settings))
        return out

    def _keep(self, name: str, make: Callable[[], TensorProto]) -> str:
        if name not in self._names:
            self._names.add(name)
            self.constants.append(make())
        return name


def outputs_of(tensors: Tensors, name: str) -> int:
    """How many values a linear layer gives; 0 where nothing of it is left."""
    if f"{name}.up.weight" in tensors:
        return outputs_of(tensors, f"{name}.up")
    if f"{name}.weight" not in tensors:
        return 0
    form = tensors[f"{name}.weight"].format
    return int(form["shape"][0] if form["kind"] == "dense" else form["rows"])


def inputs_of(tensors: Tensors, name: str) -> int:
    """How many values a linear layer takes; 0 where nothing of it is left."""
    if f"{name}.down.weight" in tensors:
        return inputs_of(tensors, f"{name}.down")
    if f"{name}.weight" not in tensors:
        return 0
    form = tensors[f"{name}.weight"].format
    return int(form["shape"][1] if form["kind"] == "dense" else form["columns"])


def stored(tensors: Tensors, name: str) -> bool:
    """Whether a table of that name is there, whole or in bands."""
    return f"{name}.weight" in tensors or f"{name}.bands" in tensors


def linear(nodes: Nodes, tensors: Tensors, name: str, states: str | None) -> str:
    """x W.T + b. states: None where nothing is left that feeds the layer, which then gives its bias.

    Raises BadArtifact for a layer whose parts do not fit.
    """
    if f"{name}.down.weight" in tensors:
        return linear(nodes, tensors, f"{name}.up", linear(nodes, tensors, f"{name}.down", states))
    bias = tensors[f"{name}.bias"].array if f"{name}.bias" in tensors else None
    if (states is None) != (inputs_of(tensors, name) == 0):
        raise BadArtifact(f"{name} does not fit what feeds it")
    if states is None:
        return nodes.constant(f"{name}.bias", np.zeros(1, np.float32) if bias is None else bias)
    weight = tensors[f"{name}.weight"]
    if weight.format["kind"] == "tiles":
        scale = tensors[f"{name}.input_scale"].array if f"{name}.input_scale" in tensors else None
        outputs = _tiled(nodes, name, states, tiled(weight), scale, weight.format.get("activations"))
    else:
        matrix = np.ascontiguousarray(_compact(weight).T)
        outputs = nodes.add("MatMul", states, _float(nodes, f"{name}.weight", matrix))
    return outputs if bias is None else nodes.add("Add", outputs, nodes.constant(f"{name}.bias", bias))


def embed(nodes: Nodes, tensors: Tensors, name: str, rows: str) -> str:
    """The rows of a table, float32 (shape of rows…, width)."""
    if f"{name}.bands" in tensors:
        return _gather_int8(nodes, name, rows, *unbanded(tensors, name))
    table = tensors[f"{name}.weight"]
    if table.format["kind"] != "tiles":
        values = _compact(table)
        gathered = nodes.add("Gather", nodes.constant(f"{name}.weight", values), rows)
        return gathered if values.dtype == np.float32 else nodes.add("Cast", gathered, to=TensorProto.FLOAT)
    matrix = tiled(table)
    if matrix.bits > 4 or matrix.columns % matrix.group_size:
        return _gather_int8(nodes, name, rows, matrix.int8(), matrix.scales)
    packed, steps, block = _four_bits(matrix, np.uint8(0))
    return nodes.add(
        "GatherBlockQuantized",
        nodes.int4(f"{name}.weight", packed, [matrix.rows, matrix.columns]),
        rows,
        nodes.constant(f"{name}.scales", steps),
        domain="com.microsoft",
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
    )


def _tiled(
    nodes: Nodes,
    name: str,
    states: str,
    matrix: TiledMatrix,
    scale: npt.NDArray[np.float32] | None,
    activations: str | None,
) -> str:
    key = b"" if scale is None else scale.tobytes()
    if matrix.bits > 4 and activations == "int8":
        if (states, key) not in nodes.quantized:  # query, key and value read the same
            nodes.quantized[states, key] = _quantize(nodes, _scaled(nodes, name, states, scale))
        integers, steps = nodes.quantized[states, key]
        weight = nodes.constant(f"{name}.weight", np.ascontiguousarray(matrix.int8().T))
        middle = nodes.constant("middle", np.uint8(128))
        products = nodes.add(
            "Cast", nodes.add("MatMulInteger", integers, weight, middle), to=TensorProto.FLOAT
        )
        # Not products * (steps * scales): ONNX Runtime 1.32 fuses that as if all tokens had one step.
        return nodes.add(
            "Mul", nodes.add("Mul", products, nodes.constant(f"{name}.scales", matrix.scales)), steps
        )
    scaled = _scaled(nodes, name, states, scale)
    if matrix.bits > 4:
        weight = nodes.constant(f"{name}.weight", np.ascontiguousarray(matrix.int8().T))
        scales = nodes.constant(f"{name}.scales", matrix.scales)
        return nodes.add("MatMul", scaled, nodes.add("DequantizeLinear", weight, scales, axis=1))
    packed, steps_of_blocks, block = _four_bits(matrix, np.uint8(8))
    return nodes.add(
        "MatMulNBits",
        scaled,
        nodes.constant(f"{name}.weight", packed.reshape(matrix.rows, -1, block // 2)),
        nodes.constant(f"{name}.scales", steps_of_blocks),
        domain="com.microsoft",
        K=matrix.columns,
        N=matrix.rows,
        bits=4,
        block_size=block,
        accuracy_level=_INT8 if activations == "int8" else _FLOAT,
    )


def _scaled(nodes: Nodes, name: str, states: str, scale: npt.NDArray[np.float32] | None) -> str:
    if scale is None:
        return states
    return nodes.add("Mul", states, nodes.constant(f"{name}.inverse_scale", np.float32(1) / scale))


def _quantize(nodes: Nodes, states: str) -> tuple[str, str]:
    """(uint8 with 128 for zero, each token's step): each token by its largest value, as torch and the kernels do."""
    last = nodes.constant("last", np.array([-1]))
    largest = nodes.add("ReduceMax", nodes.add("Abs", states), last, keepdims=1)
    # a token of zeros gives zeros, not NaN
    largest = nodes.add("Max", largest, nodes.constant("tiny", np.float32(1e-30)))
    steps = nodes.add("Div", largest, nodes.constant("levels", np.float32(127)))
    unit = nodes.add("Mul", states, nodes.add("Reciprocal", steps))
    one, middle = nodes.constant("unit", np.float32(1)), nodes.constant("middle", np.uint8(128))
    return nodes.add("QuantizeLinear", unit, one, middle), steps


def _gather_int8(
    nodes: Nodes, name: str, rows: str, integers: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]
) -> str:
    values = nodes.add("Gather", nodes.constant(f"{name}.weight", integers), rows)
    steps = nodes.add("Gather", nodes.constant(f"{name}.scales", scales[:, None]), rows)
    return nodes.add("Mul", nodes.add("Cast", values, to=TensorProto.FLOAT), steps)


def _four_bits(
    matrix: TiledMatrix, zero: np.uint8
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], int]:
    """(codes two to a byte (rows, padded columns / 2), steps (rows, blocks), block size); `zero` stands for 0.

    ONNX Runtime wants blocks of a power of two.
    """
    block = min(matrix.group_size & -matrix.group_size, _LARGEST_BLOCK)
    steps = matrix.multipliers * matrix.scales[:, None]
    blocks = -(-matrix.columns // block)
    steps = np.repeat(steps, matrix.group_size // block, axis=1)[:, :blocks]
    shifted = matrix.codes - np.uint8(1 << (matrix.bits - 1)) + zero & np.uint8(15)
    padded = np.pad(shifted, ((0, 0), (0, blocks * block - matrix.columns)), constant_values=zero)
    return padded[:, 0::2] | padded[:, 1::2] << np.uint8(4), np.ascontiguousarray(steps, np.float32), block


def _compact(stored: StoredTensor) -> npt.NDArray[Any]:
    """A dense or sparse tensor in the type it is kept in."""
    values = stored.to_dense()
    return values.astype(stored.format["dtype"]) if stored.format["kind"] == "sparse" else values


def _float(nodes: Nodes, name: str, values: npt.NDArray[Any]) -> str:
    constant = nodes.constant(name, values)
    return constant if values.dtype == np.float32 else nodes.add("Cast", constant, to=TensorProto.FLOAT)
