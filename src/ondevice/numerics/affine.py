"""Affine integer formats: real value = scale * (code - zero), at 1 to 16 bits and any granularity.

Knows NumPy arrays. Knows nothing of layers, files or the tiled layout (see tiles.py).

Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", eq. 1; grouped scales after Shen et al. 2020 (Q-BERT).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole array."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each index along `axis`."""

    axis: int = 0


@dataclass(frozen=True)
class PerGroup:
    """One scale for each `size` neighbours along the last axis, which `size` must divide."""

    size: int


@dataclass(frozen=True)
class PerToken:
    """One scale for each vector along the last axis (every token of an activation array)."""


@dataclass(frozen=True)
class PerHead:
    """The last axis holds `heads` heads side by side; one scale for each token and head."""

    heads: int


Granularity = PerTensor | PerChannel | PerGroup | PerToken | PerHead


@dataclass(frozen=True)
class AffineSpec:
    """bits: 1 to 16. symmetric: zero is fixed at the middle code 2**(bits-1), else it is chosen."""

    bits: int
    symmetric: bool = True
    granularity: Granularity = PerTensor()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise BadInput(f"bits must be 1 to 16, not {self.bits}")
        if self.bits == 1 and self.symmetric:
            raise BadInput("one bit has no symmetric affine code (0 and -1 only); use symmetric=False")


@dataclass(frozen=True)
class Quantized:
    """codes: uint16, the shape of the array. scales (float32) and zeros (int32) broadcast to `blocks`,
    the shape that the granularity gives the array."""

    codes: Codes
    scales: Floats
    zeros: npt.NDArray[np.int32]
    blocks: tuple[int, ...]
    spec: AffineSpec


def quantize(values: Array, spec: AffineSpec) -> Quantized:
    """The nearest codes of an array, from its own extremes. Raises BadInput for NaN or infinity."""
    values = np.asarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise BadInput("cannot quantize NaN or infinite values")
    blocks, axes = _blocks(values.shape, spec.granularity)
    blocked = values.reshape(blocks)
    top = 2**spec.bits - 1
    if values.size == 0:
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(blocks))
        return Quantized(
            values.astype(np.uint16), np.ones(shape, np.float32), np.zeros(shape, np.int32), blocks, spec
        )
    if spec.symmetric:
        middle = 2 ** (spec.bits - 1)
        reach = np.abs(blocked).max(axis=axes, keepdims=True)
        scales = reach / np.float32(middle - 1)
        scales = np.where(scales > 0, scales, 1).astype(np.float32)
        zeros = np.full(scales.shape, middle, np.int32)
    else:
        low = np.minimum(blocked.min(axis=axes, keepdims=True), 0)
        high = np.maximum(blocked.max(axis=axes, keepdims=True), 0)
        # halved first: the range of two large values may overflow
        scales = ((high / 2 - low / 2) / np.float32(top) * 2).astype(np.float32)
        scales = np.where(scales > 0, scales, 1).astype(np.float32)
        zeros = np.clip(np.rint(-low / scales), 0, top).astype(np.int32)
    codes = np.clip(np.rint(blocked / scales) + zeros, 0, top).astype(np.uint16)
    return Quantized(codes.reshape(values.shape), scales, zeros, blocks, spec)


def dequantize(quantized: Quantized) -> Floats:
    """scale * (code - zero), in float32 and the shape of the array."""
    codes = quantized.codes.reshape(quantized.blocks).astype(np.int32)
    return ((codes - quantized.zeros) * quantized.scales).astype(np.float32).reshape(quantized.codes.shape)


def pack(codes: Array, bits: int) -> Bytes:
    """Codes as a stream of bits, least significant first; ceil(codes.size * bits / 8) bytes."""
    flat = np.ascontiguousarray(codes, dtype=np.uint16).ravel()
    if not 1 <= bits <= 16:
        raise BadInput(f"bits must be 1 to 16, not {bits}")
    if flat.size and int(flat.max()) >= 1 << bits:
        raise BadInput(f"code {int(flat.max())} does not fit in {bits} bits")
    each = np.unpackbits(flat.view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")[:, :bits]
    return np.packbits(each.ravel(), bitorder="little")


def unpack(packed: Bytes, bits: int, count: int) -> Codes:
    """The first `count` codes of a stream that `pack` wrote."""
    if not 1 <= bits <= 16 or count < 0:
        raise BadInput(f"cannot unpack {count} codes of {bits} bits")
    if packed.size * 8 < count * bits:
        raise BadInput(f"{packed.size} bytes are too few for {count} codes of {bits} bits")
    each = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    wide = np.zeros((count, 16), np.uint8)
    wide[:, :bits] = each
    return np.packbits(wide, axis=1, bitorder="little").view("<u2").ravel().astype(np.uint16)


def _blocks(shape: tuple[int, ...], granularity: Granularity) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape to reshape to, and the axes that share a scale."""
    if isinstance(granularity, PerTensor):
        return shape, tuple(range(len(shape)))
    if not shape:
        raise BadInput(f"{granularity} needs an array with at least one axis")
    if isinstance(granularity, PerChannel):
        if not -len(shape) <= granularity.axis < len(shape):
            raise BadInput(f"axis {granularity.axis} is outside an array of shape {shape}")
        return shape, tuple(axis for axis in range(len(shape)) if axis != granularity.axis % len(shape))
    if isinstance(granularity, PerToken):
        return shape, (len(shape) - 1,)
    if isinstance(granularity, PerGroup):
        size, what = granularity.size, "group size"
    else:
        size, what = shape[-1] // max(granularity.heads, 1), "number of heads"
        if granularity.heads < 1 or shape[-1] % granularity.heads:
            raise BadInput(f"{granularity.heads} heads do not divide the last axis of shape {shape}")
    if size < 1 or shape[-1] % size:
        raise BadInput(f"the {what} ({size}) must divide the last axis of shape {shape}")
    return (*shape[:-1], shape[-1] // size, size), (len(shape),)
