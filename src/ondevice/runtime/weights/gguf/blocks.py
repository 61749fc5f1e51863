"""Blocks of GGUF become values, or tiles that the integer kernels read.

Knows block types and the tiled layout. Knows nothing of files or of what a tensor is for.

A tile has a float scale a row and an int8 multiplier a group; a block of Q4_0 or Q8_0 has a float16 scale for 32
values. So the step is not without loss. On reference-lm (tokens of Python's help texts, KL to float32 in nats): Q4_0
0.033 as it is and 0.037 in tiles, which keep its codes and only round its scales; Q8_0 0.0001 and 0.0012. Types with a
minimum a block have no symmetric codes to keep and are rounded anew, finely enough that their own rounding weighs more:
4 bits and fewer at 6 bits, the rest at 8.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra
from ondevice.numerics.tiles import PANEL, TiledMatrix, round_to_nearest, stored_bytes
from ondevice.runtime.weights.gguf.container import BlockType

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

GROUP = 32
PLAIN = {"F32": np.float32, "F16": np.float16}
_FINE = {"Q4_0": 4, "Q2_K": 6, "Q3_K": 6, "Q4_1": 6, "Q4_K": 6}  # bits in tiles; all others 8
_AT_ONCE = 1 << 22  # values that are converted at a time, so that floats never take much room


def tile_bits(type_: BlockType) -> int:
    """Bits a weight of this type's tiles."""
    return _FINE.get(type_.name, 8)


def dequantize(raw: Bytes, type_: BlockType) -> Floats:
    """The values of rows of blocks, (rows, columns), for raw (rows, bytes).

    Raises MissingExtra for types other than F32, F16, BF16, Q8_0 and Q4_0 where the package gguf is missing.
    """
    if type_.name in PLAIN:
        return np.ascontiguousarray(raw).view(PLAIN[type_.name]).astype(np.float32)
    if type_.name == "BF16":
        return (np.ascontiguousarray(raw).view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    rows = len(raw)
    if type_.name in ("Q8_0", "Q4_0"):
        codes, scales = _q8_0(raw) if type_.name == "Q8_0" else _q4_0(raw)
        return (codes * scales[:, :, None]).reshape(rows, -1)
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", f"to read weights of type {type_.name}") from error
    values: Floats = gguf.quants.dequantize(np.ascontiguousarray(raw), gguf.GGMLQuantizationType[type_.name])
    return values


def to_tiles(raw: Bytes, type_: BlockType) -> Bytes:
    """Tiles of `tile_bits` in groups of 32, as bytes, of rows of blocks (rows, bytes). Raises BadInput for scales
    that are not finite."""
    rows, columns = len(raw), raw.shape[1] // type_.size * type_.values
    bits = tile_bits(type_)
    out = np.empty(stored_bytes(rows, columns, bits, GROUP), np.uint8)
    step, at = max(1, _AT_ONCE // columns // PANEL) * PANEL, 0
    for start in range(0, rows, step):
        part = raw[start : start + step]
        tiles = _keep(part) if type_.name == "Q4_0" else _round(dequantize(part, type_), bits)
        stored = tiles.to_bytes()
        out[at : at + stored.size] = stored
        at += stored.size
    return out


def _q8_0(raw: Bytes) -> tuple[npt.NDArray[np.int8], Floats]:
    """Codes (rows, groups, 32) and scales (rows, groups)."""
    blocks = raw.reshape(len(raw), -1, 34)
    return np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8), _halves(blocks)


def _q4_0(raw: Bytes) -> tuple[npt.NDArray[np.int8], Floats]:
    blocks = raw.reshape(len(raw), -1, 18)
    codes = np.empty((*blocks.shape[:2], GROUP), np.int8)
    np.bitwise_and(blocks[:, :, 2:], 15, out=codes[:, :, :16], casting="unsafe")
    np.right_shift(blocks[:, :, 2:], 4, out=codes[:, :, 16:], casting="unsafe")
    codes -= 8
    return codes, _halves(blocks)


def _halves(blocks: Bytes) -> Floats:
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    if not np.isfinite(scales).all():
        raise BadInput("a block's scale is not finite; the file is damaged, download it again")
    return scales


def _keep(raw: Bytes) -> TiledMatrix:
    """Q4_0 with its own codes: only its scales are rounded, to multiples of a step that suits the row best."""
    codes, scales = _q4_0(raw)
    energy = np.einsum("rgk,rgk->rg", codes, codes, dtype=np.float32)  # what an error of a scale costs
    largest = np.abs(scales).max(axis=1)
    best, least = np.zeros(len(raw), np.float32), np.full(len(raw), np.inf, np.float32)
    chosen = np.zeros(scales.shape, np.int8)
    for most in np.linspace(8, 16, 24, dtype=np.float32):
        step = largest / most
        ideal = np.divide(scales, step[:, None], out=np.zeros_like(scales), where=step[:, None] > 0)
        multipliers = np.clip(np.rint(ideal), -15, 15)
        error = (energy * (scales - step[:, None] * multipliers) ** 2).sum(axis=1)
        better = error < least
        least, best = np.where(better, error, least), np.where(better, step, best)
        chosen[better] = multipliers[better].astype(np.int8)
    rows, columns = len(raw), codes.shape[1] * GROUP
    unsigned = (codes + np.int8(8)).view(np.uint8).reshape(rows, columns)
    return TiledMatrix(rows, columns, 4, GROUP, unsigned, chosen, best)


def _round(values: Floats, bits: int) -> TiledMatrix:
    rows, columns = values.shape
    reach = np.abs(values).reshape(rows, -1, GROUP).max(axis=2) / np.float32((1 << (bits - 1)) - 1)
    if not np.isfinite(reach).all():
        raise BadInput("a block's scale is not finite; the file is damaged, download it again")
    most = 127 >> (bits - 1)  # of multipliers, so that a product stays within int8
    scales = reach.max(axis=1) / np.float32(max(most, 1))
    if bits == 8:
        multipliers = np.ones(reach.shape, np.int8)
    else:
        ideal = np.divide(reach, scales[:, None], out=np.ones_like(reach), where=scales[:, None] > 0)
        multipliers = np.clip(np.ceil(ideal * np.float32(1 - 1e-6)), 1, most).astype(np.int8)
    codes = round_to_nearest(values, scales, multipliers, bits, GROUP)
    return TiledMatrix(rows, columns, bits, GROUP, codes, multipliers, scales)
