"""Convolutions: their shapes, the schemes that compute them, and weights as each scheme reads them.

Knows arrays. Knows nothing of graphs, of memory plans or of which scheme is best (runtime/preinfer).

A blocked tensor is (batch, channels / lanes, height, width, lanes), float32: lanes is the width of a vector here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels.winograd import MAX_POINTS, transformed

Floats = npt.NDArray[np.float32]
Kind = Literal["direct", "im2col", "winograd", "strassen", "depthwise"]
KINDS: tuple[Kind, ...] = ("direct", "im2col", "winograd", "strassen", "depthwise")
VECTORS = 2  # of outputs in a panel of weights: native/conv.h
_WORKING_SET = 512 * 1024 // 4  # floats of a task: half of a common second-level cache
# sums of weights in Strassen's seven products: (row half, column half, sign)
_PRODUCTS = (
    ((0, 0, 1), (1, 1, 1)),
    ((0, 0, 1),),
    ((0, 1, 1), (1, 1, -1)),
    ((1, 0, 1), (0, 0, -1)),
    ((1, 1, 1),),
    ((0, 0, 1), (0, 1, 1)),
    ((1, 0, 1), (1, 1, 1)),
)


@dataclass(frozen=True)
class ConvShape:
    """A convolution with its input size. kernel, stride, dilation: (y, x). pads: top, left, bottom, right.

    Raises BadInput where nothing would come out, or channels and groups do not divide.
    """

    batch: int
    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        sizes = (self.batch, self.channels, self.outputs, self.height, self.width, self.groups)
        if min(*sizes, *self.kernel, *self.stride, *self.dilation) < 1 or min(self.pads) < 0:
            raise BadInput(f"a convolution needs sizes of 1 or more and pads of 0 or more, not {self}")
        if self.channels % self.groups or self.outputs % self.groups:
            raise BadInput(
                f"{self.channels} channels to {self.outputs} do not divide into {self.groups} groups"
            )
        if min(self.out_size) < 1:
            raise BadInput(f"a window of {self.kernel} does not fit {self.height} x {self.width}")

    @cached_property
    def out_size(self) -> tuple[int, int]:
        """(height, width) of the output."""
        top, left, bottom, right = self.pads
        sizes = (self.height + top + bottom, self.width + left + right)
        spans = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        return tuple((s - span) // by + 1 for s, span, by in zip(sizes, spans, self.stride, strict=True))  # type: ignore[return-value]

    @property
    def pixels(self) -> int:
        """Of an output plane."""
        return self.out_size[0] * self.out_size[1]

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def depthwise(self) -> bool:
        """One filter a channel."""
        return self.groups == self.channels == self.outputs and self.groups > 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the definition."""
        return self.batch * self.outputs * self.pixels * self.taps * self.channels // self.groups

    @property
    def window(self) -> list[int]:
        """As native/conv.h's Window, in its order."""
        size = (self.height, self.width, *self.out_size)
        return [*size, *self.kernel, *self.stride, *self.pads[:2], *self.dilation]


@dataclass(frozen=True)
class Scheme:
    """A way to compute a convolution. tile: outputs of a Winograd tile (y, x). levels: of Strassen's recursion."""

    kind: Kind
    tile: tuple[int, int] = (1, 1)
    levels: int = 0

    def __str__(self) -> str:
        if self.kind == "winograd":
            return f"winograd F({self.tile[0]}x{self.tile[1]})"
        return f"strassen, {self.levels} levels" if self.kind == "strassen" else self.kind


def points(shape: ConvShape, scheme: Scheme) -> tuple[int, int]:
    """Points of a Winograd tile, (y, x)."""
    return scheme.tile[0] + shape.kernel[0] - 1, scheme.tile[1] + shape.kernel[1] - 1


def refusal(shape: ConvShape, scheme: Scheme, lanes: int, block: int) -> str:
    """Why a scheme cannot compute a convolution; empty where it can. block: of the input, lanes or 1 (planar)."""
    if shape.depthwise != (scheme.kind == "depthwise") or (shape.groups > 1 and not shape.depthwise):
        return "depthwise is for one filter a channel, and other groups have no kernel"
    if scheme.kind in ("direct", "im2col"):
        return ""
    if block != lanes:
        return "the input is planar"
    if scheme.kind == "depthwise":
        return ""
    if shape.stride != (1, 1):
        return "the stride is not 1"
    if scheme.kind == "winograd":
        if shape.dilation != (1, 1):
            return "the filter is dilated"
        if max(points(shape, scheme)) > MAX_POINTS:
            return f"more than {MAX_POINTS} points cancel in float32"
        if any(k == 1 and n > 1 for n, k in zip(scheme.tile, shape.kernel, strict=True)):
            return "an axis of one tap has nothing to save"
        return "" if max(scheme.tile) > 1 else "a tile of one output saves nothing"
    halves = 2**scheme.levels
    if shape.kernel != (1, 1) or any(shape.pads):
        return "Strassen is for 1 x 1"
    if scheme.levels < 1 or shape.channels % (lanes * halves) or -(-shape.outputs // lanes) % halves:
        return f"channels do not divide into {halves} parts of whole vectors"
    return "" if shape.pixels >= halves else "there are fewer pixels than parts"


def pack(shape: ConvShape, scheme: Scheme, weights: Floats, lanes: int, block: int) -> Floats:
    """Weights (outputs, channels / groups, ky, kx) as the scheme reads them, one axis."""
    flat = weights.reshape(shape.outputs, -1, shape.taps)
    padded = np.zeros((-(-shape.outputs // lanes) * lanes, *flat.shape[1:]), np.float32)
    padded[: shape.outputs] = flat
    if scheme.kind == "depthwise":  # [block][tap][lane]
        return np.ascontiguousarray(padded[:, 0].reshape(-1, lanes, shape.taps).transpose(0, 2, 1)).reshape(
            -1
        )
    if scheme.kind == "winograd":  # [panel][point][channel][vectors][lane]
        at_points = transformed(padded.reshape(len(padded), -1, *shape.kernel), scheme.tile)
        return _panels(at_points, lanes)
    if scheme.kind == "strassen":  # [product][panel]..., then the plain weights for pixels that do not divide
        matrix = padded[:, :, 0].T.astype(np.float64)
        products = [matrix]
        for _ in range(scheme.levels):
            products = [_weighted(each, terms) for each in products for terms in _PRODUCTS]
        parts = [_panels(each.astype(np.float32)[None], lanes) for each in products]
        return np.concatenate([*parts, _panels(padded[:, :, 0].T[None], lanes)])
    columns = [
        padded[:, c : c + block].transpose(2, 1, 0).reshape(-1, len(padded))  # [tap][channel]
        for c in range(0, shape.channels, block)
    ]
    return _panels(np.concatenate(columns)[None], lanes)


def _weighted(
    matrix: npt.NDArray[np.float64], terms: tuple[tuple[int, int, int], ...]
) -> npt.NDArray[np.float64]:
    rows, columns = matrix.shape[0] // 2, matrix.shape[1] // 2
    parts = (
        sign * matrix[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        for row, column, sign in terms
    )
    total: npt.NDArray[np.float64] = np.add.reduce(list(parts))
    return total


def _panels(matrices: Floats, lanes: int) -> Floats:
    """(matrices, rows, outputs) as [panel][matrix][row][vectors][lane], flat."""
    wide = VECTORS * lanes
    panels = [matrices[:, :, at : at + wide].reshape(-1) for at in range(0, matrices.shape[2], wide)]
    return np.concatenate(panels)


@dataclass(frozen=True)
class Work:
    """How a convolution is divided: units (rows, pixels or tiles) that a task takes, of how many, and the floats of
    scratch that a thread needs for it."""

    chunk: int
    units: int
    scratch: int


def divide(shape: ConvShape, scheme: Scheme, lanes: int, rows: int, block: int, threads: int) -> Work:
    """Tasks whose working set stays in the second-level cache, and enough of them for the threads.

    rows: pixels of the tallest register tile. Results do not depend on it.
    """
    in_blocks, out_blocks = -(-shape.channels // block), -(-shape.outputs // lanes)
    height, width = shape.out_size
    if scheme.kind == "depthwise":
        chunks = 1 if out_blocks * shape.batch >= 2 * threads or threads == 1 else min(height, 2 * threads)
        return Work(-(-height // chunks), height, 0)
    if scheme.kind == "direct":
        reach = [(k - 1) * d + 1 for k, d in zip(shape.kernel, shape.dilation, strict=True)]
        phases = shape.stride[1]
        pitch = (width + -(-reach[1] // phases) - 1) * phases * block * in_blocks
        fit = (_WORKING_SET // pitch - reach[0]) // shape.stride[0] + 1
        chunk = _even(height, max(fit, 1), threads // shape.batch, 1)
        copied = any(shape.pads) or phases > 1  # else the input is read where it lies
        return Work(chunk, height, pitch * ((chunk - 1) * shape.stride[0] + reach[0]) if copied else 0)
    if scheme.kind == "im2col":
        size = in_blocks * shape.taps * block
        chunk = _even(shape.pixels, max(_WORKING_SET // size, 2 * rows), threads // shape.batch, rows)
        return Work(chunk, shape.pixels, size * chunk)
    if scheme.kind == "winograd":
        at = points(shape, scheme)
        tiles = -(-height // scheme.tile[0]) * -(-width // scheme.tile[1])
        size = at[0] * at[1] * (in_blocks + VECTORS) * lanes
        chunk = _even(tiles, max(_WORKING_SET // size, rows), threads // shape.batch, rows)
        return Work(chunk, tiles, size * chunk + 2 * at[0] * at[1] * lanes)
    halves = 2**scheme.levels
    size = (out_blocks * halves + in_blocks // halves) * lanes
    chunk = _even(shape.pixels // halves, max(2 * _WORKING_SET // size, rows), threads // shape.batch, rows)
    return Work(chunk, shape.pixels // halves, size * chunk)


def _even(units: int, most: int, threads: int, multiple: int) -> int:
    """A chunk of at most `most` units, so that chunks are alike and as many as threads where there is enough work."""
    chunks = -(-units // most)
    if threads > 1 and units >= 2 * threads * multiple:
        chunks = -(-chunks // threads) * threads
    chunk = -(-units // chunks)
    if multiple < chunk <= most and chunk % multiple:  # whole register tiles, but for the last chunk
        whole = -(-chunk // multiple) * multiple
        chunk = whole if whole <= most else chunk
    return chunk
