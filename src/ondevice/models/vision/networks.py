"""Published shapes: convolutions, and networks of random weights as ONNX models. Speed does not depend on values.

Knows layers and their sizes. Knows nothing of engines. Batch normalisation is left as it is trained, for engines to
fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.errors import BadInput, MissingExtra
from ondevice.kernels.convolution import ConvShape

NETWORKS = ("resnet-18", "mobilenet-v2")


def _same(channels: int, outputs: int, size: int, kernel: tuple[int, int], stride: int = 1) -> ConvShape:
    pads = (kernel[0] // 2, kernel[1] // 2)
    return ConvShape(1, channels, outputs, size, size, kernel, (stride, stride), pads * 2)


# Of ResNet (six), of VGG's kind on a large picture, GoogLeNet (two), a wide window, Inception (two)
CONVOLUTIONS = (
    *(_same(64 * 2**i, 64 * 2**i, 56 // 2**i, (3, 3)) for i in range(4)),
    _same(64, 128, 56, (3, 3), 2), _same(3, 64, 224, (7, 7), 2), _same(32, 64, 112, (3, 3)),
    _same(16, 32, 28, (5, 5)), _same(32, 128, 14, (5, 5)), _same(32, 32, 56, (7, 7)),
    _same(128, 128, 17, (1, 7)), _same(192, 192, 17, (7, 1)),
)  # fmt: skip


def save_network(name: str, path: str | Path, *, size: int = 224, classes: int = 1000, seed: int = 0) -> Path:
    """Write a network as an ONNX file, which is returned: input (batch, 3, size, size), output (batch, classes).

    resnet-18: He et al. 2015. mobilenet-v2: Sandler et al. 2018, width 1. Weights are drawn so that activations keep
    their size. Raises BadInput for an unknown name, MissingExtra without the package onnx.
    """
    if name not in NETWORKS:
        raise BadInput(f"no network {name!r}; there are: {', '.join(NETWORKS)}")
    if size < 32 or classes < 1:
        raise BadInput(f"a network takes pictures of 32 or more and has classes, not {size} and {classes}")
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", "to write ONNX files") from error
    builder = _Builder(seed)
    (_resnet_18 if name == "resnet-18" else _mobilenet_v2)(builder, classes)
    onnx.save(builder.model(name, size, classes), str(path))
    return Path(path)


class _Builder:
    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.channels = 3

    def node(self, kind: str, inputs: Sequence[str], **settings: Any) -> str:
        from onnx import helper

        out = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **settings))
        return out

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    def conv(
        self, x: str, outputs: int, kernel: int, stride: int = 1, *, group: int = 1, activation: str = ""
    ) -> str:
        """Convolution, batch normalisation, and relu, relu6 or nothing."""
        fan = self.channels // group * kernel**2
        values = (
            self.random.standard_normal((outputs, self.channels // group, kernel, kernel)) * (2 / fan) ** 0.5
        )
        pads = [kernel // 2] * 4
        settings = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads, "group": group}
        x = self.node("Conv", [x, self.constant(values)], **settings)
        draw = self.random.uniform
        ranges = ((0.8, 1.2), (-0.1, 0.1), (-0.1, 0.1), (0.8, 1.2))  # scale, offset, mean, variance
        x = self.node("BatchNormalization", [x, *(self.constant(draw(*each, outputs)) for each in ranges)])
        self.channels = outputs
        if activation == "relu":
            return self.node("Relu", [x])
        return self.node("Clip", [x, self.constant(0.0), self.constant(6.0)]) if activation == "relu6" else x

    def classify(self, x: str, classes: int) -> None:
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])], axis=1)
        values = self.random.standard_normal((classes, self.channels)) * self.channels**-0.5
        bias = self.constant(self.random.uniform(-0.1, 0.1, classes))
        self.node("Gemm", [x, self.constant(values), bias], transB=1)

    def model(self, name: str, size: int, classes: int) -> Any:
        from onnx import TensorProto, helper

        self.nodes[-1].output[0] = "logits"
        pictures = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["batch", 3, size, size])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])
        graph = helper.make_graph(self.nodes, name, [pictures], [logits], self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="ondevice"
        )
        model.ir_version = 10  # older runtimes refuse newer ones
        return model


def _resnet_18(b: _Builder, classes: int) -> None:
    x = b.conv("pictures", 64, 7, 2, activation="relu")
    x = b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            before, channels = x, b.channels
            y = b.conv(x, width, 3, stride, activation="relu")
            y = b.conv(y, width, 3)
            if channels != width:
                b.channels = channels
                before = b.conv(x, width, 1, stride)
            x = b.node("Relu", [b.node("Add", [y, before])])
    b.classify(x, classes)


def _mobilenet_v2(b: _Builder, classes: int) -> None:
    x = b.conv("pictures", 32, 3, 2, activation="relu6")
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, width, count, first in stages:
        for number in range(count):
            stride, before, channels = first if number == 0 else 1, x, b.channels
            y = b.conv(x, channels * expansion, 1, activation="relu6") if expansion > 1 else x
            y = b.conv(y, b.channels, 3, stride, group=b.channels, activation="relu6")
            y = b.conv(y, width, 1)
            x = b.node("Add", [y, before]) if stride == 1 and channels == width else y
    b.classify(b.conv(x, 1280, 1, activation="relu6"), classes)
