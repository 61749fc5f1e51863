"""A linear layer of a transformer, whatever form its weight is stored in.

Knows stored tensors (`artifact.StoredTensor`, or anything with their two attributes) and the kernels. Knows
nothing of architectures: which layers there are and what flows between them is `encoder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Activation, Kernels, Linear, Matrix

Floats = npt.NDArray[np.float32]


class Stored(Protocol):
    """A tensor as an artifact keeps it."""

    @property
    def format(self) -> Mapping[str, Any]:
        """{"kind": "dense" | "tiles" | "sparse", …}, see `artifact.StoredTensor`."""

    @property
    def array(self) -> npt.NDArray[Any]:
        """The dense array, or the stored bytes."""

    def to_dense(self) -> npt.NDArray[Any]:
        """The values, for a kind that kernels do not read."""


Tensors = Mapping[str, Stored]


@dataclass(frozen=True)
class Projection:
    """A linear layer; where there is a `then`, that reads what the first gives (low rank)."""

    layer: Linear
    then: Projection | None = None

    @property
    def columns(self) -> int:
        """Inputs."""
        return self.layer.columns

    @property
    def rows(self) -> int:
        """Outputs."""
        return self.then.rows if self.then else self.layer.rows

    @property
    def int8(self) -> bool:
        """Whether its input is rounded to int8."""
        return self.layer.int8

    def apply(
        self, kernels: Kernels, x: Floats, out: Floats | None = None, activation: Activation = "none"
    ) -> Floats:
        """activation(x W.T + b), (tokens, rows), for x (tokens, columns)."""
        if self.then is None:
            return kernels.linear(x, self.layer, activation=activation, out=out)
        return self.then.apply(kernels, kernels.linear(x, self.layer), out, activation)

    def unpack(self, kernels: Kernels) -> None:
        """See `Kernels.unpack`."""
        kernels.unpack(self.layer)
        if self.then:
            self.then.unpack(kernels)


def read_projection(tensors: Tensors, name: str) -> Projection:
    """The linear layer of that name: plain, tiled, sparse, or low-rank (NAME.down and NAME.up).

    Raises BadArtifact where a part is missing or the parts do not fit together.
    """
    if f"{name}.down.weight" in tensors:
        first, second = read_projection(tensors, f"{name}.down"), read_projection(tensors, f"{name}.up")
        if first.then or first.rows != second.columns:
            raise BadArtifact(f"{name}: down gives {first.rows} values, up takes {second.columns}")
        return Projection(first.layer, second)
    matrix = read_matrix(tensors, f"{name}.weight")
    scale = read_vector(tensors, f"{name}.input_scale", matrix.columns)
    if scale is not None and not (np.isfinite(scale).all() and (scale > 0).all()):
        raise BadArtifact(f"{name}.input_scale holds values that are not positive")
    return Projection(
        Linear(
            (matrix,),
            (read_vector(tensors, f"{name}.bias", matrix.rows),),
            inverse=None if scale is None else np.float32(1) / scale,
            int8=matrix.tiled and tensors[f"{name}.weight"].format.get("activations") == "int8",
        )
    )


def side_by_side(parts: Sequence[Projection]) -> list[Projection]:
    """Projections of one input as few passes: one where they quantise it alike, else one each."""
    layers = [part.layer for part in parts]
    first = layers[0]
    alike = not any(part.then for part in parts) and all(
        layer.int8 == first.int8
        and layer.columns == first.columns
        and (layer.inverse is None) == (first.inverse is None)
        and (layer.inverse is None or first.inverse is None or np.array_equal(layer.inverse, first.inverse))
        for layer in layers
    )
    if not alike:
        return list(parts)
    matrices = [matrix for layer in layers for matrix in layer.matrices]
    biases = [bias for layer in layers for bias in layer.biases]
    return [Projection(Linear(matrices, biases, inverse=first.inverse, int8=first.int8))]


def read_matrix(tensors: Tensors, name: str) -> Matrix:
    """The matrix of that name. Raises BadArtifact where it is missing or its bytes do not fit its shape."""
    tensor = find(tensors, name)
    try:
        if tensor.format["kind"] == "tiles":
            sizes = (tensor.format[key] for key in ("rows", "columns", "bits", "group_size"))
            return Matrix.tiles(tensor.array, *sizes)
        return Matrix.dense(np.ascontiguousarray(tensor.to_dense()))
    except BadInput as problem:
        raise BadArtifact(f"tensor {name}: {problem}") from problem


def read_vector(tensors: Tensors, name: str, size: int) -> Floats | None:
    """The float32 vector of that name, or None. Raises BadArtifact where its size is wrong."""
    if name not in tensors:
        return None
    values = np.ascontiguousarray(tensors[name].to_dense(), dtype=np.float32)
    if values.shape != (size,):
        raise BadArtifact(f"tensor {name} has shape {values.shape}, its layer needs ({size},)")
    return values


def find(tensors: Tensors, name: str) -> Stored:
    """The tensor of that name. Raises BadArtifact where it is missing."""
    if name not in tensors:
        raise BadArtifact(f"tensor {name} is missing; the artifact is not a whole model")
    return tensors[name]
