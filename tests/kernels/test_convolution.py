"""Every scheme of a convolution, on every instruction set, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import available
from ondevice.kernels.convolution import ConvShape, Scheme, refusal
from ondevice.kernels.network import Network, make_arena, multiple_of_16

torch = pytest.importorskip("torch")
Floats = npt.NDArray[np.float32]
COMPILED = [name for name in available() if name != "reference"]
SCHEMES = [
    Scheme("direct"),
    Scheme("im2col"),
    Scheme("depthwise"),
    *(Scheme("strassen", levels=levels) for levels in (1, 2)),
    *(Scheme("winograd", (n, n)) for n in range(2, 7)),
    *(Scheme("winograd", tile) for tile in ((1, 4), (3, 1), (2, 5))),
]


class Bench:
    """Places planar tensors in an arena, converts them, and takes results out."""

    def __init__(self, network: Network) -> None:
        self.network, self.end, self.values = network, 0, []

    def take(self, floats: int) -> int:
        self.end, at = self.end + multiple_of_16(floats), self.end
        return at

    def give(self, x: Floats, *, blocked: bool = True) -> int:
        planar = self.take(x.size)
        self.values.append((planar, x))
        if not blocked:
            return planar
        sizes = {"images": x.shape[0], "channels": x.shape[1], "pixels": int(np.prod(x.shape[2:]))}
        target = self.take(self.network.size(*sizes.values()))
        self.network.layout(input=planar, output=target, to_blocks=True, **sizes)
        return target

    def run(self, source: int, shape: tuple[int, ...]) -> Floats:
        target = self.take(int(np.prod(shape)))
        sizes = {"images": shape[0], "channels": shape[1], "pixels": int(np.prod(shape[2:]))}
        self.network.layout(input=source, output=target, to_blocks=False, **sizes)
        arena = make_arena(self.end)
        arena[:] = np.nan  # nothing may be read before it is written
        for at, x in self.values:
            arena[at : at + x.size] = x.reshape(-1)
        self.network.run(arena)
        return arena[target : target + int(np.prod(shape))].reshape(shape).copy()


def convolve(
    shape: ConvShape, scheme: Scheme, x: Floats, weights: Floats, *, isa: str, threads: int = 1, planar: bool = False,
    bias: Floats | None = None, residual: Floats | None = None, **limits: float,
) -> Floats:  # fmt: skip
    network = Network(threads, isa)
    bench = Bench(network)
    source = bench.give(x, blocked=not planar)
    added = None if residual is None else bench.give(residual)
    target = bench.take(network.size(shape.batch, shape.outputs, shape.pixels))
    scratch = bench.take(network.scratch(shape, scheme, planar=planar))
    network.convolution(
        shape, scheme, weights, bias, input=source, output=target, scratch=scratch, residual=added, planar=planar,
        **limits,
    )  # fmt: skip
    return bench.run(target, (shape.batch, shape.outputs, *shape.out_size))


def draw(shape: ConvShape, rng: np.random.Generator) -> tuple[Floats, Floats]:
    x = rng.standard_normal((shape.batch, shape.channels, shape.height, shape.width), dtype=np.float32)
    fan = shape.taps * shape.channels // shape.groups
    weights = rng.standard_normal((shape.outputs, shape.channels // shape.groups, *shape.kernel))
    return x, (weights / fan**0.5).astype(np.float32)


def by_torch(shape: ConvShape, x: Floats, weights: Floats, bias: Floats | None = None) -> Floats:
    top, left, bottom, right = shape.pads
    padded = torch.nn.functional.pad(torch.from_numpy(x).double(), (left, right, top, bottom))
    y = torch.nn.functional.conv2d(
        padded, torch.from_numpy(weights).double(), None if bias is None else torch.from_numpy(bias).double(),
        shape.stride, 0, shape.dilation, shape.groups,
    )  # fmt: skip
    return np.asarray(y.numpy(), np.float32)


def tolerance(shape: ConvShape, scheme: Scheme) -> float:
    """Of values near 1: transforms of many points cost digits."""
    count = max(n + k - 1 for n, k in zip(scheme.tile, shape.kernel, strict=True))
    return 2e-5 if scheme.kind != "winograd" else 2e-5 * 4 ** max(0, count - 4)


@st.composite
def shapes(draw: Callable[..., Any]) -> ConvShape:
    few = st.integers(1, 3)
    kernel = (draw(st.sampled_from((1, 2, 3, 5, 7))), draw(st.sampled_from((1, 3, 4, 5))))
    depthwise = draw(st.booleans())
    channels = draw(st.sampled_from((3, 8, 16, 17, 32, 64)))
    outputs = channels if depthwise else draw(st.sampled_from((1, 16, 24, 64)))
    plain = draw(st.booleans())
    stride = (1, 1) if plain else (draw(few), draw(few))
    dilation = (1, 1) if plain else (draw(few), draw(few))
    pads = tuple(draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
    sizes = [draw(st.integers((k - 1) * d + 1, 24)) for k, d in zip(kernel, dilation, strict=True)]
    groups = channels if depthwise else 1
    return ConvShape(draw(few), channels, outputs, *sizes, kernel, stride, pads, dilation, groups)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", COMPILED)
@given(
    shape=shapes(),
    planar=st.booleans(),
    limits=st.sampled_from(((-np.inf, np.inf), (0.0, 1.0))),
    seed=st.integers(0, 9),
)
@settings(max_examples=60)
def test_every_scheme_agrees_with_torch(
    isa: str, shape: ConvShape, planar: bool, limits: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, weights = draw(shape, rng)
    bias = rng.standard_normal(shape.outputs, dtype=np.float32)
    residual = rng.standard_normal((shape.batch, shape.outputs, *shape.out_size), dtype=np.float32)
    want = np.clip(by_torch(shape, x, weights, bias) + residual, *limits)
    lanes = Network(1, isa).lanes
    for scheme in SCHEMES:
        if refusal(shape, scheme, lanes, 1 if planar else lanes):
            continue
        settings = {"bias": bias, "residual": residual, "low": limits[0], "high": limits[1], "planar": planar}
        one, three = (convolve(shape, scheme, x, weights, isa=isa, threads=n, **settings) for n in (1, 3))  # type: ignore[arg-type]
        np.testing.assert_allclose(one, want, atol=tolerance(shape, scheme), err_msg=str(scheme))
        np.testing.assert_array_equal(one, three, err_msg=f"{scheme}: threads")
        settings["residual"] = residual[:1]
        first = convolve(
            ConvShape(1, *list(vars(shape).values())[1:10]), scheme, x[:1], weights, isa=isa, **settings
        )  # type: ignore[arg-type]
        np.testing.assert_array_equal(one[:1], first, err_msg=f"{scheme}: batch")


def test_the_reference_agrees_with_torch(rng: np.random.Generator) -> None:
    shape = ConvShape(2, 6, 9, 11, 8, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 3)
    x, weights = draw(shape, rng)
    network = Network(1, "reference")
    bench = Bench(network)
    source, target = bench.give(x), bench.take(network.size(2, 9, shape.pixels))
    with pytest.raises(
        BadInput, match="groups have no kernel"
    ):  # the reference refuses what the compiled core does
        network.convolution(shape, Scheme("direct"), weights, None, input=source, output=target, scratch=0)
    shape = ConvShape(2, 6, 9, 11, 8, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2))
    x, weights = draw(shape, rng)
    got = convolve(shape, Scheme("direct"), x, weights, isa="reference")
    np.testing.assert_allclose(got, by_torch(shape, x, weights), atol=1e-5)


@pytest.mark.parametrize("isa", available())
def test_what_is_no_number_stays_so(isa: str, rng: np.random.Generator) -> None:
    shape = ConvShape(1, 16, 16, 6, 6, (3, 3))
    x, weights = draw(shape, rng)
    x[0, 3, 0, 0] = np.nan
    got = convolve(shape, Scheme("direct"), x, weights, isa=isa, low=0.0)
    assert np.isnan(got[0, :, 0, 0]).all()
    assert np.isfinite(got[0, :, 1:, 1:]).all()


@pytest.mark.parametrize("isa", COMPILED[:1])
def test_strassen_at_1024(isa: str, rng: np.random.Generator) -> None:
    shape = ConvShape(1, 1024, 1024, 32, 32, (1, 1))
    x, weights = draw(shape, rng)
    want = by_torch(shape, x, weights)
    for levels in (1, 2):
        got = convolve(shape, Scheme("strassen", levels=levels), x, weights, isa=isa)
        assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


@pytest.mark.parametrize(
    "shape, scheme, reason",
    [
        (ConvShape(1, 16, 16, 9, 9, (3, 3), (2, 2)), Scheme("winograd", (2, 2)), "stride is not 1"),
        (ConvShape(1, 16, 16, 9, 9, (7, 7)), Scheme("winograd", (6, 6)), "cancel in float32"),
        (ConvShape(1, 16, 16, 9, 9, (3, 3)), Scheme("strassen", levels=1), "Strassen is for 1 x 1"),
        (ConvShape(1, 16, 16, 9, 9, (3, 3)), Scheme("depthwise"), "one filter a channel"),
    ],
)
def test_what_a_scheme_cannot_do_is_refused(shape: ConvShape, scheme: Scheme, reason: str) -> None:
    weights = np.ones((shape.outputs, shape.channels, *shape.kernel), np.float32)
    with pytest.raises(BadInput, match=reason):
        Network(1, available()[0]).convolution(shape, scheme, weights, None, input=0, output=0, scratch=0)


def test_sizes_that_make_nothing_are_refused() -> None:
    with pytest.raises(BadInput, match="does not fit 4 x 4"):
        ConvShape(1, 3, 8, 4, 4, (5, 5))
    with pytest.raises(BadInput, match="do not divide into 2 groups"):
        ConvShape(1, 3, 8, 4, 4, (1, 1), groups=2)


@pytest.mark.parametrize("isa", available())
@pytest.mark.parametrize("average, padded", [(False, False), (True, True), (True, False)])
def test_pools_agree_with_torch(isa: str, average: bool, padded: bool, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 20, 11, 9), dtype=np.float32)
    shape = ConvShape(2, 20, 20, 11, 9, (3, 2), (2, 1), (1, 1, 1, 1), groups=20)
    given = torch.from_numpy(x)
    if average:
        want = torch.nn.functional.avg_pool2d(given, (3, 2), (2, 1), (1, 1), count_include_pad=padded)
    else:
        want = torch.nn.functional.max_pool2d(given, (3, 2), (2, 1), (1, 1))
    bench = Bench(Network(2, isa))
    source, target = bench.give(x), bench.take(bench.network.size(2, 20, shape.pixels))
    bench.network.pool(shape, input=source, output=target, average=average, count_padding=padded)
    np.testing.assert_allclose(bench.run(target, tuple(want.shape)), want.numpy(), atol=1e-6)


@pytest.mark.parametrize("isa", available())
def test_sums_and_layouts(isa: str, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 2, 19, 5, 7), dtype=np.float32)
    bench = Bench(Network(2, isa))
    first, second = bench.give(a), bench.give(b)
    size = bench.network.size(2, 19, 35)
    bench.network.add(first, second, output=first, floats=size, low=-0.5, high=0.5)
    np.testing.assert_array_equal(bench.run(first, a.shape), np.clip(a + b, -0.5, 0.5))


def test_an_arena_that_is_too_small_is_refused() -> None:
    network = Network(1, available()[0])
    network.add(0, None, output=16, floats=16)
    with pytest.raises(BadInput, match="needs 32 floats"):
        network.run(make_arena(16))
    with pytest.raises(BadInput, match="multiple of 16"):
        network.add(8, None, output=16, floats=16)
