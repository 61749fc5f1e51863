from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import CacheDtype, Kernels, Layer, LayerCache, Linear, Matrix, Places
from ondevice.numerics.tiles import TiledMatrix

HIDDEN, HEADS, SHARED, SIZE, WIDE = 96, 4, 2, 32, 160


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(0.2)


def matrix(seed: int, rows: int, columns: int, bits: int) -> Matrix:
    if bits == 32:
        return Matrix.dense(normal(seed, rows, columns))
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    most = max(1, 127 >> (bits - 1))
    multipliers = random.integers(1, most + 1, (rows, -(-columns // 32))).astype(np.int8)
    tiles = TiledMatrix(rows, columns, bits, 32, codes, multipliers, np.full(rows, 1e-3, np.float32))
    return Matrix.tiles(tiles.to_bytes(), rows, columns, bits, 32)


def layer(seed: int, bits: int, dtype: CacheDtype, norms: bool, window: int) -> Layer:
    def linear(at: int, columns: int, *rows: int) -> Linear:
        return Linear([matrix(seed + at + i, n, columns, bits) for i, n in enumerate(rows)], int8=bits < 32)

    gamma = [1 + normal(seed + 20 + i, n) for i, n in enumerate((HIDDEN, SIZE, SIZE, HIDDEN))]
    return Layer(
        gamma[0], gamma[1] if norms else None, gamma[2] if norms else None, gamma[3],
        linear(0, HIDDEN, HEADS * SIZE, SHARED * SIZE, SHARED * SIZE), linear(4, HEADS * SIZE, HIDDEN),
        linear(6, HIDDEN, WIDE, WIDE), linear(9, WIDE, HIDDEN),
        LayerCache.empty(8, SHARED, SIZE, dtype), window,
    )  # fmt: skip


def one_by_one(
    kernels: Kernels, layers: list[Layer], states: np.ndarray, places: Places, turn: tuple[Any, Any]
) -> np.ndarray:
    update = None
    for each in layers:
        x = kernels.rms_norm(states, each.attention_gamma, 1e-5, update=update)
        joint = kernels.linear(x, each.joint)
        kernels.remember(
            joint, HEADS, each.cache, places, *turn, query_gamma=each.query_gamma, key_gamma=each.key_gamma,
            epsilon=1e-5,
        )  # fmt: skip
        mixed = kernels.attend(joint, HEADS, each.cache, places, 0.25, window=each.window)
        x = kernels.rms_norm(states, each.feed_gamma, 1e-5, update=kernels.linear(mixed, each.output))
        update = kernels.linear(kernels.gated(kernels.linear(x, each.widen), "silu"), each.narrow)
    assert update is not None
    return update


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=2),
    bits=st.sampled_from([32, 8, 4, 3]),
    dtype=st.sampled_from(["float32", "float16", "int8", "int4"]),
    norms=st.booleans(),
    window=st.sampled_from([0, 33]),
)
def test_one_call_gives_the_bits_of_many(
    threaded: tuple[Kernels, Kernels],
    lengths: list[int],
    bits: int,
    dtype: CacheDtype,
    norms: bool,
    window: int,
) -> None:
    one, three = threaded
    places = Places(
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        np.random.default_rng(0).permutation(8)[: 4 * len(lengths)].reshape(-1, 4).astype(np.int32),
    )
    angle = np.outer(np.arange(256), 100.0 ** -np.arange(0, 1, 2 / SIZE))
    turn = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    states = 5 * normal(3, sum(lengths), HIDDEN)
    apart, together = states.copy(), states.copy()
    want = one_by_one(one, [layer(n, bits, dtype, norms, window) for n in (40, 80)], apart, places, turn)
    layers = [layer(n, bits, dtype, norms, window) for n in (40, 80)]
    stack = three.stack(layers, hidden=HIDDEN, heads=HEADS, epsilon=1e-5, gate="silu")
    if stack is None:  # the reference has no such call
        return
    np.testing.assert_array_equal(stack.run(together, places, *turn, 0.25), want)
    np.testing.assert_array_equal(together, apart)


def test_layers_that_do_not_fit_are_refused() -> None:
    kernels = Kernels(1)
    good = layer(1, 4, "float16", False, 0)
    settings_: dict[str, Any] = {"hidden": HIDDEN, "heads": HEADS, "epsilon": 1e-5, "gate": "silu"}
    for parts, message in (
        ({"hidden": 64}, "gamma"),
        ({"heads": 3}, "share"),
        ({"gate": "tanh"}, "no gate"),
        ({"heads": 8}, "joint is"),
    ):
        with pytest.raises(BadInput, match=message):
            kernels.stack([good], **settings_ | parts)
    with pytest.raises(BadInput, match="alike"):
        kernels.stack([good, layer(2, 4, "int8", False, 0)], **settings_)
    stack = kernels.stack([good], **settings_)
    assert stack is not None
    far = Places(np.zeros(1, np.int32), np.full(1, 300, np.int32), np.zeros((1, 8), np.int32))
    with pytest.raises(BadInput, match="beyond the 16"):
        stack.run(np.zeros((1, HIDDEN), np.float32), far, *np.zeros((2, 16, 16), np.float32), 1.0)
