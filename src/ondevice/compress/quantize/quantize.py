"""Quantisation after training: linear layers and embeddings to tiles of 1 to 8 bits, activations to int8.

Knows layers, and what calibration saw of their inputs; how one matrix becomes codes is `matrix.py`. Knows
nothing of budgets: whoever chooses settings layer by layer calls `quantize_linear` and `quantize_embedding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ondevice.compress.calibration import Calibration, Moments, moments_of
from ondevice.compress.quantize.matrix import METHODS, SWEEPS, Inputs, Method, quantize_matrix
from ondevice.compress.technique import Technique
from ondevice.errors import BadInput
from ondevice.layers.quantized import Activations, QuantizedEmbedding, QuantizedLinear
from ondevice.layers.tied import tied_heads
from ondevice.models.model import Model
from ondevice.numerics.tiles import TiledMatrix, check_format, stored_bytes

# A channel that calibration saw hardly at all is not scaled by more than this share of the largest.
_SMALLEST = 1e-3
_ROWS = 2048  # of a table at a time, so that GPTQ's copies stay small


@dataclass(frozen=True)
class Quantize(Technique):
    """Store linear layers, and the embeddings, as tiles of a few bits.

    bits, group_size: of the weights, 1 to 8 bits in groups of a multiple of 32 inputs.
    method: "gptq" (needs calibration) or "rtn", rounding to nearest.
    activations: "int8" quantises each token as the layer runs; "float" multiplies by the dequantised weight.
    smooth: exponent by which large input channels are scaled down before they become int8, and the weight up
        (SmoothQuant; 0 for none, else needs calibration). Of no use, and not applied, with float activations.
    embeddings: tables too, by rounding to nearest; by `method` where the table is the head as well.
    layers: a shell pattern of layer names.

    A table or layer that would not become smaller is left as it is.
    Sources: Frantar et al. 2023 (GPTQ); Xiao et al. 2023 (SmoothQuant), eq. 4 without the weight.
    """

    bits: int = 4
    group_size: int = 32
    method: Method = "gptq"
    activations: Activations = "int8"
    smooth: float = 0.5
    embeddings: bool = True
    layers: str = "*"

    def __post_init__(self) -> None:
        check_format(1, 1, self.bits, self.group_size)
        if self.method not in METHODS:
            raise BadInput(f"no method {self.method!r}; there are: {', '.join(METHODS)}")
        if self.activations not in ("int8", "float"):
            raise BadInput(f"activations are int8 or float, not {self.activations!r}")
        if not 0 <= self.smooth <= 1:
            raise BadInput(f"smooth must be 0 to 1, not {self.smooth}")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        if self.smooth and self.activations == "int8":
            why = "smooth (of quantize; 0 does without)"
        else:
            why = "gptq (method=rtn does without)" if self.method == "gptq" else ""
        prepared: dict[tuple[Moments, bool], Inputs] = {}  # query, key and value share their moments

        def linear(name: str, layer: nn.Linear) -> nn.Module | None:
            if _stays(layer, self.bits, self.group_size):
                return None
            moments = moments_of(calibration, model, name, why) if why else None
            scale = input_scale(moments, self.smooth) if moments and self.activations == "int8" else None
            inputs = None
            if moments is not None:
                key = moments, layer.bias is not None
                if key not in prepared:
                    prepared[key] = layer_inputs(layer, moments, scale)
                inputs = prepared[key]
            return quantize_linear(
                layer,
                self.bits,
                self.group_size,
                moments=moments,
                inputs=inputs,
                scale=scale,
                method=self.method,
                activations=self.activations,
            )

        def table(name: str, layer: nn.Embedding) -> nn.Module | None:
            if _stays(layer, self.bits, self.group_size):
                return None
            head = heads.get(name)
            inputs = None
            if head is not None and self.method == "gptq":
                inputs = Inputs(moments_of(calibration, model, head, why or "gptq").second)
            activations = self.activations if head is not None else "int8"
            return quantize_embedding(
                layer, self.bits, self.group_size, inputs=inputs, activations=activations
            )

        heads = tied_heads(model.module)
        model = model.replace(nn.Linear, self.layers, by=linear)
        return model.replace(nn.Embedding, self.layers, by=table) if self.embeddings else model


def input_scale(moments: Moments, smooth: float) -> torch.Tensor | None:
    """Factor of each input channel, float32 (channels,), geometric mean 1; None for smooth = 0."""
    largest = moments.absmax
    if smooth == 0 or not bool(largest.max() > 0):
        return None
    scale = largest.clamp_min(_SMALLEST * float(largest.max())) ** smooth
    return scale / scale.log().mean().exp()


def layer_inputs(layer: nn.Linear, moments: Moments, scale: torch.Tensor | None = None) -> Inputs:
    """A layer's inputs divided by `scale`, as GPTQ sees them: without their mean where a bias takes it up."""
    second = moments.second if layer.bias is None else moments.covariance
    return Inputs(second if scale is None else second / torch.outer(scale, scale))


def quantize_linear(
    layer: nn.Linear,
    bits: int,
    group_size: int = 32,
    *,
    moments: Moments | None = None,
    inputs: Inputs | None = None,
    scale: torch.Tensor | None = None,
    method: Method = "gptq",
    activations: Activations = "int8",
    sweeps: int = SWEEPS,
) -> QuantizedLinear:
    """A linear layer in tiles.

    moments: of its inputs; where they are known, a bias takes up the mean of the error.
    inputs: `layer_inputs(layer, moments, scale)`, where it is at hand already. scale: `input_scale(...)`.
    """
    weight = layer.weight.detach().float()
    scaled = weight if scale is None else weight * scale
    if moments is not None and inputs is None:
        inputs = layer_inputs(layer, moments, scale)
    matrix = quantize_matrix(scaled, bits, group_size, inputs, method, sweeps)
    bias = None if layer.bias is None else layer.bias.detach().float()
    if bias is not None and moments is not None:
        approximate = torch.from_numpy(matrix.dequantize())
        difference = weight - (approximate if scale is None else approximate / scale)
        bias = bias + (difference.double() @ moments.mean).float()
    return QuantizedLinear(matrix, bias, scale, activations)


def quantize_embedding(
    layer: nn.Embedding,
    bits: int,
    group_size: int = 32,
    *,
    rows: torch.Tensor | None = None,
    inputs: Inputs | None = None,
    activations: Activations = "int8",
    sweeps: int = SWEEPS,
) -> QuantizedEmbedding:
    """A table in tiles with searched scales, or some of its rows: each rounded to nearest, or by GPTQ where it is
    known which errors of a row matter, as for a table that is also the head."""
    weight = layer.weight.detach() if rows is None else layer.weight.detach()[rows]
    method: Method = "rtn" if inputs is None else "gptq"
    parts = [
        quantize_matrix(part, bits, group_size, inputs, method, sweeps) for part in torch.split(weight, _ROWS)
    ]
    codes, multipliers, scales = (
        np.concatenate([getattr(part, field) for part in parts])
        for field in ("codes", "multipliers", "scales")
    )
    matrix = TiledMatrix(len(codes), weight.shape[1], bits, group_size, codes, multipliers, scales)
    return QuantizedEmbedding(matrix, layer.padding_idx if rows is None else None, activations)


def _stays(layer: nn.Linear | nn.Embedding, bits: int, group_size: int) -> bool:
    """Whether tiles would take at least the bytes that the float32 weight takes."""
    rows, columns = layer.weight.shape
    return stored_bytes(rows, columns, bits, group_size) >= 4 * rows * columns
