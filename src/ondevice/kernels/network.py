"""A network of prepared steps over one arena, run in one call.

Knows steps and offsets into the arena, in floats. Knows nothing of where they come from: runtime/preinfer chooses
schemes and places tensors. Without the compiled core, or with the instruction set "reference", NumPy runs the same
steps.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels import instruction_set as best
from ondevice.kernels.convolution import KINDS, ConvShape, Scheme, Work, divide, pack, refusal
from ondevice.kernels.matrix import check, core
from ondevice.kernels.reference_network import ReferenceNetwork

Floats = npt.NDArray[np.float32]
INFINITY = math.inf


class Network:
    """Steps are added in order and run by `run(arena)`. Calls from several Python threads take turns.

    lanes: floats of a vector, the block of a blocked tensor (1 in the reference). rows: pixels of a register tile.
    Tensors at `input`, `output` and `residual` are blocked and lie at these offsets in floats, multiples of 16.
    """

    def __init__(self, threads: int = 1, instruction_set: str | None = None) -> None:
        name = instruction_set or best()
        if not 1 <= threads <= 1024:
            raise BadInput(f"threads must be 1 to 1024, not {threads}")
        self.threads, self.instruction_set = threads, name
        self._native: Any = ReferenceNetwork() if name == "reference" else core.Network(threads, name)
        self.lanes, self.rows = int(self._native.lanes), int(self._native.rows)
        self.floats = 0  # that the arena must have

    def size(self, batch: int, channels: int, pixels: int) -> int:
        """Floats of a blocked tensor, padded to a multiple of 16."""
        return multiple_of_16(batch * -(-channels // self.lanes) * self.lanes * pixels)

    def scratch(self, shape: ConvShape, scheme: Scheme, *, planar: bool = False) -> int:
        """Floats of scratch that a convolution needs, of all threads."""
        return self.threads * (multiple_of_16(self._work(shape, scheme, planar).scratch))

    def convolution(
        self, shape: ConvShape, scheme: Scheme, weights: Floats, bias: Floats | None, *, input: int, output: int,
        scratch: int, residual: int | None = None, low: float = -INFINITY, high: float = INFINITY,
        planar: bool = False,
    ) -> None:  # fmt: skip
        """output = clip(conv(input) + bias + residual, low, high).

        weights: (outputs, channels / groups, ky, kx). bias: (outputs,). planar: the input is not blocked. scratch:
        offset of `scratch()` floats. Raises BadInput where the scheme cannot compute this convolution.
        """
        check("weights", weights, (shape.outputs, shape.channels // shape.groups, *shape.kernel))
        if bias is not None:
            check("bias", bias, (shape.outputs,))
        block = 1 if planar else self.lanes
        if reason := refusal(shape, scheme, self.lanes, block):
            raise BadInput(f"{scheme} cannot compute {shape}: {reason}")
        work = self._work(shape, scheme, planar)
        own = multiple_of_16(work.scratch)
        in_size = shape.batch * -(-shape.channels // block) * block * shape.height * shape.width
        out_size = self.size(shape.batch, shape.outputs, shape.pixels)
        self._reserve(input, in_size)
        self._reserve(output, out_size)
        self._reserve(scratch, own * self.threads)
        if residual is not None:
            self._reserve(residual, out_size)
        fields = [
            KINDS.index(scheme.kind), shape.batch, shape.channels, shape.outputs, *shape.window[:4],
            *shape.window[4:], block, *scheme.tile, scheme.levels, work.chunk, input, output,
            -1 if residual is None else residual, scratch, own,
        ]  # fmt: skip
        if isinstance(self._native, ReferenceNetwork):
            self._native.convolution(shape, fields, weights, bias, low, high)
            return
        packed = pack(shape, scheme, weights, self.lanes, block)
        padded = None
        if bias is not None:
            padded = np.zeros(-(-shape.outputs // self.lanes) * self.lanes, np.float32)
            padded[: shape.outputs] = bias
        self._native.convolution(np.array(fields, np.int64), packed, padded, low, high)

    def pool(
        self, shape: ConvShape, *, input: int, output: int, average: bool = False, count_padding: bool = False
    ) -> None:
        """Largest or mean value of each window. shape: as of a convolution of each channel by itself."""
        planes = shape.batch * -(-shape.channels // self.lanes)
        self._reserve(input, planes * self.lanes * shape.height * shape.width)
        self._reserve(output, planes * self.lanes * shape.pixels)
        window = np.array(shape.window, np.int64)
        self._native.pool(window, planes, input, output, average, count_padding)

    def add(
        self,
        a: int,
        b: int | None,
        *,
        output: int,
        floats: int,
        low: float = -INFINITY,
        high: float = INFINITY,
    ) -> None:
        """output = clip(a + b, low, high), or clip(a) without b; `floats` a multiple of 16. output may be a or b."""
        for offset in (a, output, *(() if b is None else (b,))):
            self._reserve(offset, floats)
        self._native.add(a, -1 if b is None else b, output, floats, low, high)

    def copy(
        self, *, input: int, output: int, images: int, floats: int, in_stride: int, out_stride: int
    ) -> None:
        """`images` runs of `floats` floats from one stride to another."""
        if min(input, output) < 0:
            raise BadInput(f"offsets are 0 or more, not {input} and {output}")
        ends = (input + (images - 1) * in_stride + floats, output + (images - 1) * out_stride + floats)
        self.floats = max(self.floats, *ends)
        self._native.copy(input, output, images, floats, in_stride, out_stride)

    def layout(
        self, *, input: int, output: int, images: int, channels: int, pixels: int, to_blocks: bool
    ) -> None:
        """A planar tensor (images, channels, pixels) to a blocked one, or back."""
        planar, blocked = images * channels * pixels, self.size(images, channels, pixels)
        self._reserve(input, planar if to_blocks else blocked)
        self._reserve(output, blocked if to_blocks else planar)
        self._native.layout(input, output, images, channels, pixels, to_blocks)

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(self._native.count)

    def run(self, arena: Floats, steps: tuple[int, int] | None = None) -> None:
        """Run all steps, or those from steps[0] up to steps[1]. arena: float32, `floats` or more."""
        first, last = steps or (0, self.steps)
        if not 0 <= first <= last <= self.steps:
            raise BadInput(f"there are {self.steps} steps, not those from {first} to {last}")
        check("arena", arena, (arena.size,))
        if arena.size < self.floats or not arena.flags.writeable:
            raise BadInput(f"the arena needs {self.floats} floats that can be written, not {arena.size}")
        self._native.run(arena, first, last)

    def _work(self, shape: ConvShape, scheme: Scheme, planar: bool) -> Work:
        return divide(shape, scheme, self.lanes, self.rows, 1 if planar else self.lanes, self.threads)

    def _reserve(self, offset: int, floats: int) -> None:
        if offset < 0 or offset % 16:
            raise BadInput(f"an offset is a multiple of 16 from 0 on, not {offset}")
        self.floats = max(self.floats, offset + floats)


def multiple_of_16(floats: int) -> int:
    """The next multiple of 16 floats, a line of cache."""
    return -(-floats // 16) * 16


def make_arena(floats: int) -> Floats:
    """Floats at a multiple of 64 bytes, zero."""
    raw = np.zeros(floats * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + floats * 4].view(np.float32)
