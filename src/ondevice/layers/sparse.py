"""A linear layer most of whose weights are zero, stored as a bit mask and the weights that are left.

Knows that form. Knows nothing of which weights were dropped and why.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput
from ondevice.layers.quantized import array, dense
from ondevice.numerics import sparse


class SparseLinear(nn.Module):
    """y = x W.T + b. Stored sparse; here the weight is multiplied dense, so it saves storage, not time.

    weight: (out_features, in_features), zero where pruned; rounded to `dtype` ("float16" or "float32").
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, dtype: str = "float16"
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.dtype = dtype
        rounded = weight.detach().to(getattr(torch, dtype)).float()
        self.register_buffer("weight", rounded)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, self.weight, self.bias)

    def macs_per_row(self) -> int:
        """Multiply-accumulates for one input vector, as done here: dense."""
        return self.in_features * self.out_features

    def stored_bytes(self) -> int:
        """Bytes of the layer in an artifact."""
        return sum(tensor.array.nbytes for tensor in self.stored().values())

    def stored(self) -> dict[str, StoredTensor]:
        """What an artifact keeps of the layer, by the last part of the tensor's name."""
        form = {
            "kind": "sparse",
            "rows": self.out_features,
            "columns": self.in_features,
            "dtype": self.dtype,
        }
        weight = StoredTensor(form, sparse.pack(self.weight.cpu().numpy(), self.dtype))
        return {"weight": weight} | ({} if self.bias is None else {"bias": dense(self.bias)})

    @classmethod
    def from_stored(cls, stored: Mapping[str, StoredTensor]) -> SparseLinear:
        """The layer that `stored()` came from, bit for bit."""
        weight = stored["weight"]
        try:
            rows, columns = int(weight.format["rows"]), int(weight.format["columns"])
            dtype = str(weight.format["dtype"])
            matrix = sparse.unpack(weight.array, rows, columns, dtype)
        except (KeyError, TypeError, BadInput) as error:
            raise BadArtifact(f"a sparse matrix cannot be read: {error}") from error
        bias = array(stored["bias"]) if "bias" in stored else None
        return cls(torch.from_numpy(np.ascontiguousarray(matrix)), bias, dtype)

    def extra_repr(self) -> str:
        share = float((self.weight == 0).float().mean())
        return f"{self.in_features}, {self.out_features}, sparsity={share:.2f}"
