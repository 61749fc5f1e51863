"""The steps of a network in NumPy: the oracle of the compiled ones, and what runs where there are none.

Knows planar tensors (a blocked one of one lane is the same). Computes every scheme by its definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.kernels.convolution import ConvShape

Floats = npt.NDArray[np.float32]


class ReferenceNetwork:
    """As the compiled core's Network."""

    lanes = 1
    rows = 1

    def __init__(self) -> None:
        self._steps: list[Callable[[Floats], None]] = []

    def convolution(
        self,
        shape: ConvShape,
        fields: Sequence[int],
        weights: Floats,
        bias: Floats | None,
        low: float,
        high: float,
    ) -> None:
        source, target, residual = fields[-5], fields[-4], fields[-3]
        size = shape.batch * shape.outputs * shape.pixels

        def step(arena: Floats) -> None:
            x = _view(arena, source, (shape.batch, shape.channels, shape.height, shape.width))
            y = convolve(x, weights, shape)
            if bias is not None:
                y += bias[:, None, None]
            if residual >= 0:
                y += _view(arena, residual, y.shape)
            arena[target : target + size] = np.clip(y, low, high).reshape(-1)

        self._steps.append(step)

    def pool(
        self,
        window: npt.NDArray[np.int64],
        planes: int,
        source: int,
        target: int,
        average: bool,
        padding: bool,
    ) -> None:
        height, width, out_y, out_x, ky, kx, sy, sx, top, left, dy, dx = (int(value) for value in window)
        shape = ConvShape(
            1, planes, planes, height, width, (ky, kx), (sy, sx), (top, left, 0, 0), (dy, dx), planes
        )

        def step(arena: Floats) -> None:
            x = _view(arena, source, (1, planes, height, width))
            patches = _patches(x, shape, (out_y, out_x), fill=np.nan)
            if average:
                total = np.nansum(patches, axis=(4, 5))
                y = total / (ky * kx if padding else np.isfinite(patches).sum(axis=(4, 5)))
            else:
                y = np.nanmax(patches, axis=(4, 5))
            arena[target : target + y.size] = y.reshape(-1)

        self._steps.append(step)

    def add(self, a: int, b: int, target: int, floats: int, low: float, high: float) -> None:
        def step(arena: Floats) -> None:
            total = arena[a : a + floats] + (arena[b : b + floats] if b >= 0 else 0)
            arena[target : target + floats] = np.clip(total, low, high)

        self._steps.append(step)

    def copy(
        self, source: int, target: int, images: int, floats: int, in_stride: int, out_stride: int
    ) -> None:
        def step(arena: Floats) -> None:
            for n in range(images):
                start, end = source + n * in_stride, target + n * out_stride
                arena[end : end + floats] = arena[start : start + floats]

        self._steps.append(step)

    def layout(
        self, source: int, target: int, images: int, channels: int, pixels: int, to_blocks: bool
    ) -> None:
        self.copy(source, target, 1, images * channels * pixels, 0, 0)

    @property
    def count(self) -> int:
        return len(self._steps)

    def run(self, arena: Floats, first: int, last: int) -> None:
        for step in self._steps[first:last]:
            step(arena)


def convolve(x: Floats, weights: Floats, shape: ConvShape) -> Floats:
    """The definition: (batch, channels, height, width) to (batch, outputs, out height, out width), sums in float64."""
    patches = _patches(x, shape, shape.out_size, fill=0.0)
    grouped = patches.reshape(shape.batch, shape.groups, -1, *patches.shape[2:])
    own = weights.reshape(shape.groups, -1, *weights.shape[1:])
    y: npt.NDArray[np.float64] = np.einsum(
        "ngcyxij,gocij->ngoyx", grouped, own, dtype=np.float64, optimize=True
    )
    return y.reshape(shape.batch, shape.outputs, *shape.out_size).astype(np.float32)


def _patches(x: Floats, shape: ConvShape, out_size: tuple[int, int], fill: float) -> npt.NDArray[Any]:
    """(batch, channels, out height, out width, ky, kx), `fill` outside the image."""
    (top, left, *_), (ky, kx), (dy, dx), (sy, sx) = shape.pads, shape.kernel, shape.dilation, shape.stride
    below = max(0, (out_size[0] - 1) * sy + (ky - 1) * dy + 1 - top - shape.height)
    beside = max(0, (out_size[1] - 1) * sx + (kx - 1) * dx + 1 - left - shape.width)
    padded = np.pad(x, ((0, 0), (0, 0), (top, below), (left, beside)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(padded, ((ky - 1) * dy + 1, (kx - 1) * dx + 1), (2, 3))
    return windows[:, :, ::sy, ::sx, ::dy, ::dx][:, :, : out_size[0], : out_size[1]]


def _view(arena: Floats, offset: int, shape: tuple[int, ...]) -> Floats:
    return arena[offset : offset + int(np.prod(shape))].reshape(shape)
