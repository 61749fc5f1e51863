"""Stored tensors as the dense weights that they stand for, for engines that know no other form.

Knows the forms in which an artifact keeps a layer. Knows nothing of architectures or engines; needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput
from ondevice.numerics.tiles import TiledMatrix

Tensors = Mapping[str, StoredTensor]
Floats = npt.NDArray[np.float32]


def dense_weights(tensors: Tensors) -> dict[str, Floats]:
    """float32 arrays under the names that a plain checkpoint has: low-rank halves multiplied out, bands of a table
    put together, input scales taken into the weight. Raises BadArtifact where parts do not fit together."""
    weights: dict[str, Floats] = {}
    for full, tensor in tensors.items():
        name, _, leaf = full.rpartition(".")
        if leaf == "bands":
            integers, scales = unbanded(tensors, name)
            weights[f"{name}.weight"] = integers * scales[:, None]
        elif leaf != "input_scale" and ".band." not in full:
            values = np.asarray(tensor.to_dense(), np.float32)
            if leaf == "weight" and f"{name}.input_scale" in tensors:
                values = values / tensors[f"{name}.input_scale"].array
            weights[full] = values
    for full in [name for name in weights if name.endswith(".down.weight")]:
        name = full.removesuffix(".down.weight")
        try:
            weights[f"{name}.weight"] = weights.pop(f"{name}.up.weight") @ weights.pop(full)
        except (KeyError, ValueError) as problem:
            raise BadArtifact(f"{name}: the halves of a low-rank layer do not fit: {problem!r}") from problem
        if f"{name}.up.bias" in weights:
            weights[f"{name}.bias"] = weights.pop(f"{name}.up.bias")
    return weights


def tiled(tensor: StoredTensor) -> TiledMatrix:
    """The matrix of a stored tensor of kind "tiles". Raises BadArtifact where bytes and shape disagree."""
    try:
        return tensor.tiled()
    except (KeyError, TypeError, BadInput) as problem:
        if isinstance(problem, BadArtifact):  # a damaged tensor says so itself
            raise
        raise BadArtifact(f"a quantised matrix cannot be read: {problem}") from problem


def unbanded(tensors: Tensors, name: str) -> tuple[npt.NDArray[np.int8], Floats]:
    """A table in bands as int8 rows (rows, width) with a scale each (rows,), in the order of the table."""
    bands: npt.NDArray[Any] = tensors[f"{name}.bands"].array
    integers: npt.NDArray[np.int8] | None = None
    scales = np.empty(len(bands), np.float32)
    for number, count in enumerate(np.bincount(bands)):
        if f"{name}.band.{number}.weight" not in tensors:
            raise BadArtifact(f"{name}: band {number} is missing")
        matrix = tiled(tensors[f"{name}.band.{number}.weight"])
        if matrix.rows != count:
            raise BadArtifact(f"{name}: band {number} has {matrix.rows} rows, expected {count}")
        if integers is None:
            integers = np.empty((len(bands), matrix.columns), np.int8)
        integers[bands == number], scales[bands == number] = matrix.int8(), matrix.scales
    if integers is None:
        raise BadArtifact(f"{name} has no rows")
    return integers, scales
