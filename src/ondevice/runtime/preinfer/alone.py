"""One convolution by itself: what is measured to know machines and to judge choices.

Knows kernels. Knows nothing of clocks or of which scheme is best.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ondevice.kernels.convolution import ConvShape, Scheme
from ondevice.kernels.network import Network, make_arena, multiple_of_16

Floats = npt.NDArray[np.float32]


def alone(
    shape: ConvShape,
    scheme: Scheme,
    *,
    planar: bool = False,
    threads: int = 1,
    instruction_set: str | None = None,
) -> Callable[[], None]:
    """A call that computes it, of random numbers, prepared. planar: its input is not blocked."""
    network, (_, weights) = Network(threads, instruction_set), random_operands(shape)
    blocked = network.size(shape.batch, shape.channels, shape.height * shape.width)
    inputs = multiple_of_16(shape.batch * shape.channels * shape.height * shape.width) if planar else blocked
    outputs = network.size(shape.batch, shape.outputs, shape.pixels)
    places = {"input": 0, "output": inputs, "scratch": inputs + outputs}
    network.convolution(shape, scheme, weights, None, planar=planar, **places)
    arena = make_arena(network.floats)
    arena[:] = np.random.default_rng(0).standard_normal(arena.size, np.float32)
    return lambda: network.run(arena)


def random_operands(shape: ConvShape, seed: int = 0) -> tuple[Floats, Floats]:
    """Random input (batch, channels, height, width) and weights (outputs, channels / groups, ky, kx), float32, whose
    results are of size 1."""
    random, inner = np.random.default_rng(seed), shape.channels // shape.groups
    x = random.standard_normal((shape.batch, shape.channels, shape.height, shape.width), np.float32)
    weights = random.standard_normal((shape.outputs, inner, *shape.kernel), np.float32)
    return x, weights * np.float32((inner * shape.taps) ** -0.5)
