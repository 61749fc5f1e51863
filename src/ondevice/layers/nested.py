"""Linear layers whose weight is nested: one stored copy that runs at several widths.

Knows the nested format and its arithmetic, in torch: what every kernel must reproduce. Knows nothing of how the codes
were chosen, nor of who chooses a width.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput
from ondevice.layers.quantized import read_tiles
from ondevice.numerics.nested import NestedMatrix, SignPlane


class NestedLinear(nn.Module):
    """y = x W.T at a width, activations rounded to int8 token by token.

    width: the bits at which it runs, all of them unless set. Without a bias.
    """

    integers: torch.Tensor
    scales: torch.Tensor

    def __init__(self, matrix: NestedMatrix) -> None:
        super().__init__()
        self.matrix = matrix
        self.out_features, self.in_features = matrix.base.rows, matrix.base.columns
        self._width = matrix.widths[-1]
        unit = np.float32(1 / (1 << matrix.shift))
        self.register_buffer("scales", torch.from_numpy(matrix.base.scales * unit), persistent=False)
        self.width = self._width

    @property
    def width(self) -> int:
        return self._width

    @width.setter
    def width(self, bits: int) -> None:
        integers = self.matrix.integers(bits).astype(np.float64)  # products are exact in it, in any order
        self.register_buffer("integers", torch.from_numpy(integers), persistent=False)
        self._width = bits

    def weight_at(self, bits: int) -> torch.Tensor:
        """The matrix at a width, float32 (out_features, in_features)."""
        return torch.from_numpy(self.matrix.dequantize(bits))

    @property
    def weight(self) -> torch.Tensor:
        """The matrix at the width at which the layer runs."""
        return self.weight_at(self.width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        tokens = inputs.reshape(-1, self.in_features)
        steps = tokens.abs().amax(dim=1, keepdim=True) / 127
        inverse = torch.where(steps > 0, 1 / steps, 0)
        rounded = (tokens * inverse).round().clamp(-127, 127)
        outputs = (rounded.double() @ self.integers.T).float() * (steps * self.scales)
        return outputs.reshape(*inputs.shape[:-1], self.out_features)

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one input vector."""
        return self.in_features * self.out_features

    def stored_bytes(self) -> int:
        """Bytes of the layer in an artifact, of all widths."""
        return self.matrix.nbytes

    def stored(self) -> dict[str, StoredTensor]:
        """What an artifact keeps of the layer, by the last part of the tensor's name: "weight", a matrix in tiles of
        the lowest width whose format says how many "planes" there are, and "plane1", "plane2", …"""
        base = self.matrix.base
        form = {
            "kind": "tiles",
            "bits": base.bits,
            "group_size": base.group_size,
            "rows": base.rows,
            "columns": base.columns,
            "activations": "int8",
            "planes": len(self.matrix.planes),
        }
        planes = {
            f"plane{number}": StoredTensor.dense(plane.to_bytes(base.group_size))
            for number, plane in enumerate(self.matrix.planes, 1)
        }
        return {"weight": StoredTensor(form, base.to_bytes())} | planes

    @classmethod
    def from_stored(cls, stored: Mapping[str, StoredTensor]) -> NestedLinear:
        """The layer that `stored()` came from, bit for bit. Raises BadArtifact where a plane is missing or damaged."""
        base, count = read_tiles(stored["weight"]), stored["weight"].format.get("planes")
        names = [f"plane{number}" for number in range(1, (count if isinstance(count, int) else 0) + 1)]
        if not names or any(name not in stored for name in names):
            raise BadArtifact(f"a nested matrix has {count!r} planes, stored are: {', '.join(stored)}")
        try:
            return cls(
                NestedMatrix(
                    base,
                    tuple(
                        SignPlane.from_bytes(stored[name].array, base.rows, base.columns, base.group_size)
                        for name in names
                    ),
                )
            )
        except BadInput as problem:
            raise BadArtifact(f"a nested matrix cannot be read: {problem}") from problem

    def extra_repr(self) -> str:
        widths = f"{self.matrix.widths[0]}..{self.matrix.widths[-1]}"
        return f"{self.in_features}, {self.out_features}, bits={widths}, group_size={self.matrix.base.group_size}"


class BitScores(nn.Module):
    """What a bit router scores tokens with (`train.bits`, `runtime.moe.bits`). weight: (experts * widths, hidden).

    No linear layer of the model: torch runs nested experts at one width, and nothing is to quantise it.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
