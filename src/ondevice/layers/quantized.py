"""Quantised layers: weights in tiles, activations in float or in dynamic int8.

Knows the tiled format and its arithmetic, in torch: what every kernel must reproduce. Knows nothing of how
the codes were chosen, of whole models or of files on disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput
from ondevice.numerics.tiles import TiledMatrix

Activations = Literal["int8", "float"]
_EXACT = 1024  # inputs: 1024 * 127 * 128 < 2**24


class Tiled(nn.Module):
    """A layer whose weight is a `TiledMatrix`, held in buffers so that copies of the layer share it."""

    codes: torch.Tensor
    multipliers: torch.Tensor
    scales: torch.Tensor

    def __init__(self, matrix: TiledMatrix) -> None:
        super().__init__()
        self.bits, self.group_size = matrix.bits, matrix.group_size
        self.register_buffer("codes", _owned(matrix.codes))
        self.register_buffer("multipliers", _owned(matrix.multipliers))
        self.register_buffer("scales", _owned(matrix.scales))

    @property
    def matrix(self) -> TiledMatrix:
        """The weight as it is stored."""
        rows, columns = self.codes.shape
        codes, multipliers, scales = (
            tensor.detach().cpu().numpy() for tensor in (self.codes, self.multipliers, self.scales)
        )
        return TiledMatrix(rows, columns, self.bits, self.group_size, codes, multipliers, scales)

    def stored_bytes(self) -> int:
        """Bytes of the layer in an artifact."""
        return sum(tensor.array.nbytes for tensor in self.stored().values())

    def stored(self) -> dict[str, StoredTensor]:
        """What an artifact keeps of the layer, by the last part of the tensor's name."""
        matrix = self.matrix
        form = {
            "kind": "tiles",
            "bits": matrix.bits,
            "group_size": matrix.group_size,
            "rows": matrix.rows,
            "columns": matrix.columns,
        }
        return {"weight": StoredTensor(form, matrix.to_bytes())}


class QuantizedLinear(Tiled):
    """y = x W.T + b, with W stored in tiles.

    matrix: the weight (out_features, in_features), multiplied by input_scale before it was quantised.
    input_scale: float32 (in_features,), the factor by which an input channel is divided before it is
        quantised (SmoothQuant, Xiao et al. 2023, eq. 3); None for ones.
    activations: "int8" quantises each token to int8 by its largest value and multiplies integers, exactly
        as the kernels do; it passes no gradient. "float" multiplies by the dequantised weight.
    """

    integers: torch.Tensor
    dequantized: torch.Tensor
    bias: torch.Tensor | None
    input_scale: torch.Tensor | None

    def __init__(
        self,
        matrix: TiledMatrix,
        bias: torch.Tensor | None = None,
        input_scale: torch.Tensor | None = None,
        activations: Activations = "int8",
    ) -> None:
        super().__init__(matrix)
        self.out_features, self.in_features = matrix.rows, matrix.columns
        self.activations = activations
        for name, values, size in (
            ("bias", bias, matrix.rows),
            ("input_scale", input_scale, matrix.columns),
        ):
            if values is not None and values.shape != (size,):
                raise BadInput(f"{name} of shape {tuple(values.shape)}, expected ({size},)")
            self.register_buffer(name, None if values is None else values.detach().float())
        # Work space, not stored: an artifact keeps `codes`.
        if activations == "int8":
            self.register_buffer("integers", _owned(matrix.int8().astype(np.float32)), persistent=False)
        else:
            self.register_buffer("dequantized", self.weight, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The matrix that the layer stands for, float32 (out_features, in_features)."""
        weight = self.matrix.dequantize()
        return _owned(weight if self.input_scale is None else weight / self.input_scale.cpu().numpy())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.activations == "float":
            return functional.linear(inputs, self.dequantized, self.bias)
        scaled = inputs if self.input_scale is None else inputs * (1 / self.input_scale)
        outputs = int8_linear(scaled, self.integers, self.scales)
        return outputs if self.bias is None else outputs + self.bias

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one input vector."""
        return self.in_features * self.out_features

    def stored(self) -> dict[str, StoredTensor]:
        stored = super().stored()
        stored["weight"].format["activations"] = self.activations
        for name in ("bias", "input_scale"):
            values = getattr(self, name)
            if values is not None:
                stored[name] = dense(values)
        return stored

    @classmethod
    def from_stored(cls, stored: Mapping[str, StoredTensor]) -> QuantizedLinear:
        """The layer that `stored()` came from, bit for bit."""
        bias, scale = (array(stored[name]) if name in stored else None for name in ("bias", "input_scale"))
        return cls(read_tiles(stored["weight"]), bias, scale, _activations(stored["weight"], "float"))

    def extra_repr(self) -> str:
        return (
            f"{self.in_features}, {self.out_features}, bits={self.bits}, "
            f"group_size={self.group_size}, activations={self.activations}"
        )


class QuantizedEmbedding(Tiled):
    """A table of embeddings stored in tiles; looking up a row dequantises it.

    activations: how a head that shares the table multiplies by it, as in `QuantizedLinear`.
    """

    dequantized: torch.Tensor

    def __init__(
        self, matrix: TiledMatrix, padding_idx: int | None = None, activations: Activations = "int8"
    ) -> None:
        super().__init__(matrix)
        self.activations = activations
        self.num_embeddings, self.embedding_dim = matrix.rows, matrix.columns
        self.padding_idx = padding_idx
        self.register_buffer("dequantized", self.weight, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The table, float32 (num_embeddings, embedding_dim)."""
        return _owned(self.matrix.dequantize())

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.dequantized)

    def macs_per_row(self) -> int:
        """Looking up multiplies nothing."""
        return 0

    def rows(self, keep: npt.NDArray[np.int64], padding_idx: int | None = None) -> QuantizedEmbedding:
        """The table of only these rows, in this order, bit for bit."""
        old = self.matrix
        matrix = TiledMatrix(
            len(keep),
            old.columns,
            old.bits,
            old.group_size,
            old.codes[keep],
            old.multipliers[keep],
            old.scales[keep],
        )
        return QuantizedEmbedding(matrix, padding_idx, self.activations)

    def stored(self) -> dict[str, StoredTensor]:
        stored = super().stored()
        if self.activations == "float":
            stored["weight"].format["activations"] = "float"
        return stored

    @classmethod
    def from_stored(cls, stored: Mapping[str, StoredTensor]) -> QuantizedEmbedding:
        """The table that `stored()` came from, bit for bit."""
        return cls(read_tiles(stored["weight"]), activations=_activations(stored["weight"], "int8"))

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}, group_size={self.group_size}"


def int8_linear(inputs: torch.Tensor, integers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """inputs (…, columns), each token rounded to int8 by its largest value, times scales * integers (rows, columns)."""
    tokens = inputs.reshape(-1, inputs.shape[-1])
    steps = tokens.abs().amax(dim=1, keepdim=True) / 127
    inverse = torch.where(steps > 0, 1 / steps, 0)
    outputs = _exact_product((tokens * inverse).round().clamp(-127, 127), integers) * (steps * scales)
    return outputs.reshape(*inputs.shape[:-1], len(integers))


def _exact_product(quantized: torch.Tensor, integers: torch.Tensor) -> torch.Tensor:
    """The integer product of quantized (tokens, inputs) and integers (outputs, inputs), as float32.

    Both hold int8 values in float32, whose product is exact, in any order, while sums stay below 2**24.
    (torch._int_mm saturates on processors without VNNI, and reads stray memory where there is one input.)
    """
    product = functional.linear(quantized[:, :_EXACT], integers[:, :_EXACT])
    if integers.shape[1] <= _EXACT:
        return product
    total = product.int()
    for first in range(_EXACT, integers.shape[1], _EXACT):
        columns = slice(first, first + _EXACT)
        total += functional.linear(quantized[:, columns], integers[:, columns]).int()
    return total.float()


def _activations(stored: StoredTensor, default: Activations) -> Activations:
    activations = stored.format.get("activations", default)
    if activations not in ("int8", "float"):
        raise BadArtifact(f"activations {activations!r}: this version knows int8 and float")
    return cast(Activations, activations)


def read_tiles(stored: StoredTensor) -> TiledMatrix:
    """The matrix of a stored tensor of kind "tiles". Raises BadArtifact where bytes and shape disagree."""
    try:
        return stored.tiled()
    except (KeyError, TypeError, BadInput) as error:
        if isinstance(error, BadArtifact):  # a damaged tensor says so itself
            raise
        raise BadArtifact(f"a quantised matrix cannot be read: {error}") from error


def dense(values: torch.Tensor) -> StoredTensor:
    """A tensor stored as it is."""
    return StoredTensor.dense(values.detach().cpu().contiguous().numpy())


def array(stored: StoredTensor) -> torch.Tensor:
    """A dense stored tensor as a torch tensor of its own memory."""
    return _owned(stored.array)


def _owned(values: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor that owns its memory and can take part in autograd, whatever mode is on."""
    with torch.inference_mode(False):
        return torch.from_numpy(np.array(values, order="C"))
