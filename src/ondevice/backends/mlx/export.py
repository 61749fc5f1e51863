"""An artifact as a folder for MLX: weights in MLX's own quantised form, under Hugging Face's names.

Knows both forms of quantised weights. Ours: W = scale * multiplier * (code - middle); MLX's: W = scale * code + bias,
a scale and a bias a group, codes as a stream of bits in 32-bit words. So nothing is rounded but scales.

What MLX has no form for stays readable: sparse and plain matrices become float16, a layer's input scale a tensor
`NAME.input_scale` that `read_folder` divides by. A low-rank layer keeps its halves NAME.down and NAME.up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_unflatten
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from ondevice.artifact import Artifact, StoredTensor
from ondevice.backends.dense import tiled, unbanded
from ondevice.backends.mlx.artifact import shapes_of, whole_shape, widest
from ondevice.backends.mlx.encoder import Arguments, Network
from ondevice.backends.mlx.names import names
from ondevice.backends.mlx.session import MlxSession
from ondevice.errors import BadInput
from ondevice.models.tasks import Task
from ondevice.numerics.tiles import TiledMatrix

_WIDTHS = (2, 3, 4, 5, 6, 8)  # that MLX has
_GROUPS = (128, 64, 32)
_NORMAL = 2.0**-14  # smallest float16 of full precision
_LARGEST = 6e4  # below float16's

Arrays = dict[str, npt.NDArray[Any]]


def write_folder(artifact: Artifact, folder: Path) -> None:
    """Write model.safetensors, config.json (with MLX's "quantization") and tokenizer.json into a folder."""
    arrays: Arrays = {}
    quantization: dict[str, Any] = {}
    tensors, shapes = artifact.tensors, shapes_of(artifact.tensors)
    hidden, inner = int(artifact.config["hidden_size"]), widest(shapes)
    for full, tensor in tensors.items():
        name, _, leaf = full.rpartition(".")
        shape = whole_shape(full, shapes[full], hidden, inner)
        if ".band." in full:
            continue
        if leaf == "bands" or tensor.format["kind"] == "tiles":
            matrix = _padded(tiled(tensor), *shape) if leaf == "weight" else _banded(tensors, name)
            if matrix.columns % 32 == 0:
                quantization[name] = _quantized(arrays, name, matrix)
            else:
                arrays[f"{name}.weight"] = _compact(matrix.dequantize())
        elif leaf == "input_scale":
            whole = whole_shape(f"{name}.weight", shapes[f"{name}.weight"], hidden, inner)[1]
            arrays[full] = np.pad(tensor.array, (0, whole - shape[0]), constant_values=1)
        else:
            values = np.asarray(tensor.to_dense())
            padding = [(0, to - of) for to, of in zip(shape, values.shape, strict=True)]
            arrays[full] = _compact(np.pad(values, padding))
    config = artifact.config | {"intermediate_size": inner, "quantization": quantization}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "mlx"})
    folder.joinpath("config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    folder.joinpath("tokenizer.json").write_text(artifact.tokenizer_json, encoding="utf-8")


def read_folder(folder: str | Path, task: Task) -> MlxSession:
    """A session on what `write_folder` wrote; weights stay quantised in memory.

    Agrees with torch on the artifact as `open_artifact` does, and to 1e-3 more where scales became float16.
    Raises BadInput where tensors are missing or do not fit.
    """
    folder = Path(folder)
    try:
        config = json.loads(folder.joinpath("config.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        arrays = load_file(folder / "model.safetensors")
        quantization: dict[str, dict[str, int]] = config["quantization"]
    except Exception as problem:  # `tokenizers` and `safetensors` raise classes of their own
        raise BadInput(f"{folder} is no folder that `ondevice export --to mlx` wrote: {problem}") from problem
    network = Network(
        Arguments.from_config(config),
        "ForSequenceClassification" if task.kind == "classification" else "Model",
    )
    linear = {name.rpartition(".")[0] for name in arrays if name.endswith(".input_scale")} | set(quantization)
    owners = {name.rpartition(".")[0].removesuffix(".down").removesuffix(".up") for name in arrays}
    modules, plain = [], []
    for bare, own in names(network).items():
        theirs, _, leaf = bare.rpartition(".")
        ours = own.rpartition(".")[0]
        name = next((p + theirs for p in ("bert.", "roberta.") if p + theirs in owners), theirs)
        if f"{name}.down.weight" in arrays:
            halves = (_linear(arrays, f"{name}.{half}", quantization) for half in ("down", "up"))
            modules.append((ours, nn.Sequential(*halves)))
        elif name in quantization and "embeddings." in name:
            modules.append((ours, _table(arrays, name, quantization[name])))
        elif name in linear:
            modules.append((ours, _linear(arrays, name, quantization)))
        elif f"{name}.{leaf}" in arrays:
            plain.append((own, mx.array(arrays[f"{name}.{leaf}"].astype(np.float32))))
        else:
            raise BadInput(f"{folder}: tensor {name}.{leaf} is missing")
    try:
        network.load_weights(plain, strict=False)
        network.update_modules(
            tree_unflatten(list(dict(modules).items()))
        )  # weight and bias name a layer twice
    except ValueError as problem:
        raise BadInput(f"{folder}: {problem}") from problem
    mx.eval(network.parameters())
    network.eval()
    return MlxSession(network, tokenizer, task)


class _Scaled(nn.Module):
    """A linear layer whose inputs are divided by a scale a channel."""

    def __init__(self, layer: nn.Module, scale: mx.array) -> None:
        super().__init__()
        self.layer, self.inverse = layer, 1 / scale

    def __call__(self, x: mx.array) -> mx.array:
        out: mx.array = self.layer(x * self.inverse)
        return out


def _linear(arrays: Arrays, name: str, quantization: Mapping[str, dict[str, int]]) -> nn.Module:
    bias = arrays.get(f"{name}.bias")
    if name in quantization:
        form, weight = quantization[name], arrays[f"{name}.weight"]
        columns = weight.shape[1] * 32 // form["bits"]
        layer: nn.Module = nn.QuantizedLinear(columns, weight.shape[0], bias is not None, **form)
        leaves = ["weight", "scales", "biases"]
    else:
        rows, columns = arrays[f"{name}.weight"].shape
        layer, leaves = nn.Linear(columns, rows, bias is not None), ["weight"]
    for leaf in leaves + ["bias"] * (bias is not None):
        values = arrays[f"{name}.{leaf}"]
        setattr(layer, leaf, mx.array(values if values.dtype == np.uint32 else values.astype(np.float32)))
    if f"{name}.input_scale" in arrays:
        return _Scaled(layer, mx.array(arrays[f"{name}.input_scale"]))
    return layer


def _table(arrays: Arrays, name: str, form: dict[str, int]) -> nn.Module:
    weight = arrays[f"{name}.weight"]
    table = nn.QuantizedEmbedding(weight.shape[0], weight.shape[1] * 32 // form["bits"], **form)
    for leaf in ("weight", "scales", "biases"):
        values = arrays[f"{name}.{leaf}"]
        setattr(table, leaf, mx.array(values if values.dtype == np.uint32 else values.astype(np.float32)))
    return table


def _quantized(arrays: Arrays, name: str, matrix: TiledMatrix) -> dict[str, int]:
    """Add the tensors of a matrix; its entry in config.json."""
    bits = next(width for width in _WIDTHS if width >= matrix.bits)
    middle = 1 << (matrix.bits - 1)
    group_size = next(
        size for size in _GROUPS if matrix.group_size % size == 0 and matrix.columns % size == 0
    )
    steps = np.repeat(matrix.multipliers * matrix.scales[:, None], matrix.group_size // group_size, axis=1)
    steps = steps[:, : matrix.columns // group_size]
    offsets = -middle * steps
    size = np.abs(steps[steps != 0])
    kind = (
        np.float16 if size.size and size.min() > _NORMAL and np.abs(offsets).max() < _LARGEST else np.float32
    )
    arrays[f"{name}.weight"] = _bit_stream(matrix.codes, bits)
    arrays[f"{name}.scales"], arrays[f"{name}.biases"] = steps.astype(kind), offsets.astype(kind)
    return {"group_size": group_size, "bits": bits}


def _bit_stream(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint32]:
    """Codes (rows, columns) as uint32 (rows, columns * bits / 32), the first code in the lowest bits."""
    each = np.unpackbits(codes[:, :, None], axis=2, count=bits, bitorder="little")
    packed = np.packbits(each.reshape(len(codes), -1), axis=1, bitorder="little")
    return np.ascontiguousarray(packed).view("<u4")


def _padded(matrix: TiledMatrix, rows: int, columns: int) -> TiledMatrix:
    """The matrix with rows and columns of zeros behind its own."""
    down, right = rows - matrix.rows, columns - matrix.columns
    if not down and not right:
        return matrix
    groups = -(-columns // matrix.group_size) - matrix.multipliers.shape[1]
    middle = 1 << (matrix.bits - 1)
    return TiledMatrix(
        rows,
        columns,
        matrix.bits,
        matrix.group_size,
        np.pad(matrix.codes, ((0, down), (0, right)), constant_values=middle),
        np.pad(matrix.multipliers, ((0, down), (0, groups))),
        np.pad(matrix.scales, (0, down)),
    )


def _banded(tensors: Mapping[str, StoredTensor], name: str) -> TiledMatrix:
    """A table in bands as one of 8 bits."""
    integers, scales = unbanded(tensors, name)
    rows, columns = integers.shape
    group_size = 32 if columns % 128 else 128
    ones = np.ones((rows, -(-columns // group_size)), np.int8)
    codes = integers.view(np.uint8) ^ np.uint8(128)
    return TiledMatrix(rows, columns, 8, group_size, codes, ones, scales)


def _compact(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float16 for a matrix, unless it holds too large a value."""
    small = values.ndim > 1 and values.size and float(np.abs(values).max()) < _LARGEST
    return values.astype(np.float16 if small else np.float32)
