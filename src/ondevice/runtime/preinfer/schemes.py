"""Which scheme computes a convolution fastest, by arithmetic on its shape and a few rates of the machine.

Knows the cost of schemes. Runs nothing: rates come from constants.py, which measures none of the convolutions that
are chosen for.

Source: MNN (Jiang et al. 2020), section 3.2: equation 2 (`paper_cost`), the limit of Strassen's recursion (equation 3).
The paper counts multiplications; `Selector` prices them by how well they fill the register tile, and adds transforms,
copies and weights read from memory, each at its rate, because counts alone prefer tiles whose weights no longer fit a
cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from ondevice.errors import BadInput
from ondevice.kernels.convolution import VECTORS, ConvShape, Scheme, divide, points, refusal
from ondevice.kernels.winograd import MAX_POINTS, transforms

_POINTS_2D = 81  # of a tile: of 7 x 7, results to 4 are off 4e-4 at most with 81, 6e-4 with 100, 2e-5 with 64
_LARGEST_TILE = 6


@dataclass(frozen=True)
class Rates:
    """What one thread of a machine does. lanes, rows: of its vectors and register tiles.

    tiles: {vectors: ((pixels, seconds), ...)}: one step (a channel at a tap) of a register tile so many pixels tall.
    operation: seconds of a vector load, arithmetic or store that the first-level cache serves. row: seconds to begin
    copying a row. bandwidth: bytes a second from memory, all threads together. step: seconds to begin a step.
    """

    lanes: int
    rows: int
    tiles: dict[int, tuple[tuple[int, float], ...]]
    operation: float
    row: float
    bandwidth: float
    step: float

    def tile(self, vectors: int, pixels: int) -> float:
        """Seconds of one step of a tile, between the heights that were measured."""
        known = self.tiles[vectors]
        for (low, a), (high, b) in pairwise(known):
            if pixels <= high:
                return a + (b - a) * (pixels - low) / (high - low)
        return known[-1][1]

    def run(self, vectors: int, pixels: int) -> float:
        """Seconds of one step for a run of neighbouring pixels, divided into tiles as evenly as can be."""
        count = -(-pixels // self.rows)
        tall = pixels - count * (pixels // count)
        return tall * self.tile(vectors, pixels // count + 1) + (count - tall) * self.tile(
            vectors, pixels // count
        )


@dataclass(frozen=True)
class Choice:
    """The scheme of a convolution. seconds: modelled. considered: (scheme, modelled seconds), cheapest first."""

    scheme: Scheme
    seconds: float
    considered: tuple[tuple[Scheme, float], ...]


def paper_cost(n: int, kernel: int, channels: int, outputs: int) -> float:
    """Multiplications of one output pixel with F(n x n, k x k); n = 1 is the sliding window. Equation 2, over n**2."""
    at = n + kernel - 1
    if n == 1:
        return channels * outputs * kernel**2
    transform_in, products = 2 * channels * at**3, channels * outputs * at**2
    return (transform_in + products + n * at * (2 * n + kernel - 1) * outputs) / n**2


def paper_choice(shape: ConvShape) -> Scheme:
    """What the paper's count of multiplications alone chooses: the least n, or the sliding window, or Strassen."""
    kernel = shape.kernel[0]
    if shape.depthwise:
        return Scheme("depthwise")
    if shape.kernel == (1, 1) and shape.stride == (1, 1) and not any(shape.pads):
        levels = strassen_levels(shape.pixels, shape.channels, shape.outputs)
        return Scheme("strassen", levels=levels) if levels else Scheme("direct")
    if (
        shape.kernel != (kernel, kernel)
        or shape.stride != (1, 1)
        or shape.dilation != (1, 1)
        or shape.groups > 1
    ):
        return Scheme("direct")
    sizes = range(1, min(_LARGEST_TILE, MAX_POINTS + 1 - kernel) + 1)
    n = min(sizes, key=lambda n: paper_cost(n, kernel, shape.channels, shape.outputs))
    return Scheme("winograd", (n, n)) if n > 1 else Scheme("direct")


def strassen_levels(rows: int, inner: int, columns: int) -> int:
    """Levels of Strassen's recursion that save more multiplications than they add additions. Equation 3."""
    levels = 0
    while min(rows, inner, columns) >= 2:
        m, n, k = columns / 2, rows / 2, inner / 2
        if 8 * m * n * k - 7 * m * n * k <= 4 * m * k + 4 * n * k + 7 * m * n:
            break
        rows, inner, columns, levels = rows // 2, inner // 2, columns // 2, levels + 1
    return levels


class Selector:
    """Chooses schemes for a machine and a number of threads."""

    def __init__(self, rates: Rates, threads: int = 1) -> None:
        self.rates, self.threads = rates, threads

    def choose(self, shape: ConvShape, *, planar: bool = False) -> Choice:
        """The scheme of the least modelled time. planar: the input is not blocked. BadInput where none fits."""
        block = 1 if planar else self.rates.lanes
        schemes = [it for it in candidates(shape) if not refusal(shape, it, self.rates.lanes, block)]
        if not schemes:
            raise BadInput(f"no scheme here computes {shape}")
        priced = sorted(
            ((it, self.seconds(shape, it, planar=planar)) for it in schemes), key=lambda pair: pair[1]
        )
        return Choice(*priced[0], tuple(priced))

    def seconds(self, shape: ConvShape, scheme: Scheme, *, planar: bool = False) -> float:
        """Modelled time of a convolution."""
        rates, block = self.rates, 1 if planar else self.rates.lanes
        work = divide(shape, scheme, rates.lanes, rates.rows, block, self.threads)
        chunks = -(-work.units // work.chunk)
        last = work.units - (chunks - 1) * work.chunk
        busy = self._task(shape, scheme, work.chunk, block) * (chunks - 1) + self._task(
            shape, scheme, last, block
        )
        tasks = shape.batch * chunks
        idle = 1.0
        if scheme.kind == "strassen":  # whose tasks are not divided further
            idle = -(-tasks // self.threads) * self.threads / tasks
        weights = 4 * _weights(shape, scheme, rates.lanes) / rates.bandwidth
        return max(shape.batch * busy * idle / self.threads, weights) + rates.step

    def _task(self, shape: ConvShape, scheme: Scheme, units: int, block: int) -> float:
        rates, lanes = self.rates, self.rates.lanes
        width = shape.out_size[1]
        inputs, outputs = -(-shape.channels // block), -(-shape.outputs // lanes)
        panels = {VECTORS: outputs // VECTORS, outputs % VECTORS: 1 if outputs % VECTORS else 0}
        panels = {vectors: count for vectors, count in panels.items() if count}
        depth = shape.channels * shape.taps
        operation = rates.operation

        def product(pixels: int, steps: float, share: float = 1.0) -> float:
            return steps * share * sum(count * rates.run(v, pixels) for v, count in panels.items())

        finish = 3 * operation * outputs
        if scheme.kind == "depthwise":
            return units * width * outputs * (2 * shape.taps + 3) * operation
        if scheme.kind == "direct":
            copied = any(shape.pads) or shape.stride[1] > 1
            rows = ((units - 1) * shape.stride[0] + (shape.kernel[0] - 1) * shape.dilation[0] + 1) * copied
            moved = self._copy(rows * inputs, width * shape.stride[1], shape.stride[1], block)
            flat = not copied and shape.stride[0] == 1 and shape.kernel == (1, 1)
            runs, pixels = (1, units * width) if flat else (units, width)
            return moved + runs * product(pixels, depth) + finish * units * width
        if scheme.kind == "im2col":
            rows = max(1, math.ceil(units / width)) * inputs * shape.taps
            moved = self._copy(rows, units * inputs * shape.taps / rows, shape.stride[1], block)
            return moved + product(units, depth) + finish * units
        if scheme.kind == "winograd":
            at = points(shape, scheme)
            tile_in = _transform_operations(at, at, shape.kernel, scheme.tile, inward=True)
            tile_out = _transform_operations(at, scheme.tile, shape.kernel, scheme.tile, inward=False)
            area, results = at[0] * at[1], scheme.tile[0] * scheme.tile[1]
            transform = units * operation * (inputs * tile_in + outputs * (tile_out + 3 * results + area))
            return transform + product(units, shape.channels * area)
        halves, products = float(2**scheme.levels), float(7**scheme.levels)
        sums = products * (12 / 7) ** scheme.levels * inputs / halves  # vectors read to mix inputs
        targets = products * (12 / 7) ** scheme.levels * outputs / halves
        mixed = 2 * units * operation * (2 * sums + 3 * targets)  # in the second-level cache: twice as slow
        return mixed + product(units, products * depth / halves, 1 / halves) + finish * units * halves

    def _copy(self, rows: float, pixels: float, stride: int, block: int) -> float:
        """Seconds to copy rows of pixels: by vectors, or one float at a time where a planar row is not whole."""
        vectors = pixels if block > 1 or stride > 1 else pixels / self.rates.lanes
        return rows * (self.rates.row + 2 * vectors * self.rates.operation)


class Always:
    """One scheme wherever it can be used, else direct (depthwise: its own): what a selector is held against."""

    def __init__(self, selector: Selector, scheme: Scheme) -> None:
        self.rates, self._selector, self._scheme = selector.rates, selector, scheme

    def choose(self, shape: ConvShape, *, planar: bool = False) -> Choice:
        block = 1 if planar else self.rates.lanes
        tile = tuple(n if k > 1 else 1 for n, k in zip(self._scheme.tile, shape.kernel, strict=True))
        wanted = Scheme(self._scheme.kind, (tile[0], tile[1]), self._scheme.levels)
        for scheme in (wanted, Scheme("direct"), Scheme("depthwise")):
            if not refusal(shape, scheme, self.rates.lanes, block):
                seconds = self._selector.seconds(shape, scheme, planar=planar)
                return Choice(scheme, seconds, ((scheme, seconds),))
        raise BadInput(f"no scheme here computes {shape}")


FIXED = {"im2col": Scheme("im2col"), "direct": Scheme("direct"), "F(2, k)": Scheme("winograd", (2, 2))}


def policies(selector: Selector) -> dict[str, Selector | Always]:
    """The selector as "chosen", and what it is held against: always one scheme."""
    return {"chosen": selector, **{name: Always(selector, scheme) for name, scheme in FIXED.items()}}


def candidates(shape: ConvShape) -> list[Scheme]:
    """All schemes that may compute a convolution, before layouts are looked at."""
    if shape.depthwise:
        return [Scheme("depthwise")]
    found = [Scheme("direct"), Scheme("im2col")]
    for n in range(2, _LARGEST_TILE + 1):
        tile = (n if shape.kernel[0] > 1 else 1, n if shape.kernel[1] > 1 else 1)
        at = (tile[0] + shape.kernel[0] - 1) * (tile[1] + shape.kernel[1] - 1)
        if at <= _POINTS_2D:
            found.append(Scheme("winograd", tile))
    levels = strassen_levels(shape.pixels, shape.channels, shape.outputs)
    return found + [Scheme("strassen", levels=level) for level in range(1, min(levels, 2) + 1)]


def _weights(shape: ConvShape, scheme: Scheme, lanes: int) -> float:
    """Floats of packed weights."""
    outputs = -(-shape.outputs // lanes) * lanes
    if scheme.kind == "depthwise":
        return outputs * shape.taps
    each = outputs * shape.channels
    if scheme.kind == "winograd":
        at = points(shape, scheme)
        return each * at[0] * at[1]
    return each * (7 / 4) ** scheme.levels if scheme.kind == "strassen" else each * shape.taps


@cache
def _transform_operations(
    size: tuple[int, int],
    result: tuple[int, int],
    kernel: tuple[int, int],
    tile: tuple[int, int],
    *,
    inward: bool,
) -> float:
    """Vector operations of a two-way transform of one tile: its factors that are not zero, loads and stores."""
    total = 0.0
    for axis, lines in ((0, size[1]), (1, result[0])):
        if kernel[axis] == 1 and tile[axis] == 1:
            continue
        matrix = transforms(tile[axis], kernel[axis])[2 if inward else 0]
        factors = sum(value != 0 for row in matrix for value in row)
        total += lines * (factors + size[axis] + result[axis])
    return total
