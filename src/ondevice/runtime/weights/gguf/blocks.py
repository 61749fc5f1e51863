"""Blocks of GGUF become values, or tiles that the integer kernels read.

Knows block types and the tiled layout. Knows nothing of files or of what a tensor is for.

A tile has a float scale a row and an int8 multiplier a group; a block of Q4_0 or Q8_0 has a float16 scale for 32
values, so the step is not without loss. Q4_0 keeps its codes and has its scales rounded; Q8_0 is rounded to one scale a
row. Types with a minimum a block have no symmetric codes to keep and are rounded anew, finely enough that their own
rounding weighs more: 4 bits and fewer at 6 bits, the rest at 8. What that costs: docs/decisions/gguf.md.
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
_SQUARES = np.array([((byte & 15) - 8) ** 2 + ((byte >> 4) - 8) ** 2 for byte in range(256)], np.uint8)
_AT_ONCE = 1 << 20  # values that are converted at a time, so that floats never take much room


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
        if type_.name == "Q4_0":
            stored = _keep(part)
        elif type_.name == "Q8_0":
            stored = _rescale(part)
        else:
            stored = _round(dequantize(part, type_), bits)
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


def _keep(raw: Bytes) -> Bytes:
    """Q4_0 with its own codes: only its scales are rounded, to multiples of a step that suits the row best."""
    blocks = raw.reshape(len(raw), -1, 18)
    scales = _halves(blocks)
    energy = _SQUARES[blocks[:, :, 2:]].sum(axis=2, dtype=np.float32)  # what an error of a scale costs
    largest = np.abs(scales).max(axis=1)
    best, least = np.zeros(len(raw), np.float32), np.full(len(raw), np.inf, np.float32)
    # whole numbers are among the candidates: so what came from tiles finds its steps again
    for most in np.linspace(8, 16, 25, dtype=np.float32):
        step = largest / most
        error = _multipliers(scales, step) * step[:, None] - scales
        cost = np.einsum("rg,rg->r", energy, np.square(error, out=error))
        better = cost < least
        least, best = np.where(better, cost, least), np.where(better, step, best)
    # in a block, values 0-15 lie in low halves of bytes and 16-31 in high ones
    words = np.ascontiguousarray(blocks[:, :, 2:]).view(np.uint32)
    first, second, low = words[:, :, 0::2], words[:, :, 1::2], np.uint32(0x0F0F0F0F)
    planes = np.concatenate(
        [(first & low) | (second & low) << np.uint32(4), (first >> np.uint32(4) & low) | (second & ~low)],
        axis=2,
    )
    return _panels(best, _multipliers(scales, best).astype(np.int8), planes, 0x88888888)


def _multipliers(scales: Floats, steps: Floats) -> Floats:
    """Of 4 bits: whole, and at most 15, so that a product stays within int8."""
    inverse = np.divide(1, steps, out=np.zeros_like(steps), where=steps > 0)
    whole = np.rint(scales * inverse[:, None])
    return np.clip(whole, -15, 15, out=whole)


def _rescale(raw: Bytes) -> Bytes:
    """Q8_0 with one scale a row."""
    codes, scales = _q8_0(raw)
    reach = np.abs(scales) * np.abs(codes.astype(np.int16)).max(axis=2)
    steps = reach.max(axis=1) / np.float32(127)
    factors = np.divide(scales, steps[:, None], out=np.zeros_like(scales), where=steps[:, None] > 0)
    return _eight_bits(np.multiply(codes, factors[:, :, None], dtype=np.float32), steps)


def _eight_bits(values: Floats, scales: Floats) -> Bytes:
    """values: (rows, groups, 32), in units of their row's scale; they are rounded in place."""
    unsigned = np.rint(values, out=values).astype(np.int8).view(np.uint8) ^ np.uint8(128)
    return _panels(scales, np.ones(values.shape[:2], np.int8), unsigned.view(np.uint32), 0x80808080)


def _panels(
    scales: Floats, multipliers: npt.NDArray[np.int8], words: npt.NDArray[np.uint32], empty: int
) -> Bytes:
    """The bytes of `TiledMatrix.to_bytes`, without a code ever standing alone.

    words: (rows, groups, words of a row in a group), as the layout has them. empty: a word of rows that are padding.
    """
    rows, groups = multipliers.shape
    panels = -(-rows // PANEL)
    if padding := panels * PANEL - rows:
        scales, multipliers = np.pad(scales, (0, padding)), np.pad(multipliers, ((0, padding), (0, 0)))
        words = np.pad(words, ((0, padding), (0, 0), (0, 0)), constant_values=empty)
    head = 64 + -(-groups * PANEL // 64) * 64
    out = np.zeros((panels, head + groups * words.shape[2] * PANEL * 4), np.uint8)
    out[:, :64] = scales.view(np.uint8).reshape(panels, 64)
    turned = multipliers.view(np.uint8).reshape(panels, PANEL, groups).swapaxes(1, 2)
    out[:, 64 : 64 + groups * PANEL] = turned.reshape(panels, -1)
    out[:, head:].view(np.uint32).reshape(panels, -1, PANEL)[:] = words.reshape(panels, PANEL, -1).swapaxes(
        1, 2
    )
    return out.reshape(-1)


def _round(values: Floats, bits: int) -> Bytes:
    """Values of any kind, to the nearest of 6 or 8 bits."""
    rows, columns = values.shape
    groups = values.reshape(rows, -1, GROUP)
    reach = np.maximum(groups.max(axis=2), -groups.min(axis=2)) / np.float32((1 << (bits - 1)) - 1)
    if not np.isfinite(reach).all():
        raise BadInput("a block's scale is not finite; the file is damaged, download it again")
    most = max(127 >> (bits - 1), 1)  # of multipliers, so that a product stays within int8
    scales = reach.max(axis=1) / np.float32(most)
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales > 0)
    if bits == 8:
        return _eight_bits(groups * inverse[:, None, None], scales)
    multipliers = np.clip(np.ceil(reach * inverse[:, None] * np.float32(1 - 1e-6)), 1, most).astype(np.int8)
    codes = round_to_nearest(values, scales, multipliers, bits, GROUP)
    return TiledMatrix(rows, columns, bits, GROUP, codes, multipliers, scales).to_bytes()
