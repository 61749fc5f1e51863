"""Branches of a tree attend as the same tokens would one after another: bit for bit, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import PAGE, CacheDtype, Kernels, LayerCache, Places, move_tokens
from ondevice.kernels.pages import CACHE_DTYPES

TREES = st.lists(st.integers(0, 9), min_size=1, max_size=14).map(
    lambda draws: [min(draw, number) for number, draw in enumerate(draws)]
)


def depths_of(draws: list[int]) -> list[int]:
    """Some tree in preorder."""
    depths: list[int] = []
    for draw in draws:
        depths.append(1 + draw % (depths[-1] + 1) if depths else 1)
    return depths


def path_to(depths: list[int], node: int) -> list[int]:
    """A node and all that it follows."""
    path = [node]
    for number in range(node - 1, -1, -1):
        if depths[number] < depths[path[0]]:
            path.insert(0, number)
    return path


class Tree:
    """One sequence of `past` tokens, a root, and branches below it. Its pages are 0 and up, scratch the last two."""

    def __init__(self, seed: int, past: int, depths: list[int], shared: int, group: int, size: int) -> None:
        self.past, self.depths, self.heads, self.shared, self.size = (
            past,
            depths,
            shared * group,
            shared,
            size,
        )
        rng = np.random.default_rng(seed)
        width = (self.heads + 2 * shared) * size
        self.before = rng.standard_normal((past, width), dtype=np.float32)
        self.nodes = rng.standard_normal((1 + len(depths), width), dtype=np.float32)
        angle = np.outer(np.arange(past + 20), 100.0 ** -np.arange(0, 1, 2 / size))
        self.turn = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        self.pages = -(-(past + 20) // PAGE)

    def cache(self, dtype: CacheDtype) -> LayerCache:
        return LayerCache.empty(self.pages + 2, self.shared, self.size, dtype)

    def places(self, positions: list[int], slots: list[int] | None = None) -> Places:
        return Places(
            np.zeros(len(positions), np.int32),
            np.array(positions, np.int32),
            np.arange(self.pages, dtype=np.int32)[None],
            None if slots is None else np.array(slots, np.int32),
        )

    def read(
        self, kernels: Kernels, cache: LayerCache, joint: np.ndarray, places: Places, window: int
    ) -> np.ndarray:
        joint = joint.copy()
        kernels.remember(joint, self.heads, cache, places, *self.turn)
        return kernels.attend(joint, self.heads, cache, places, self.size**-0.5, window=window)

    def together(self, kernels: Kernels, cache: LayerCache, window: int) -> tuple[np.ndarray, np.ndarray]:
        """What root and branches give in one step, and the slots of the branches."""
        self.read(kernels, cache, self.before, self.places(list(range(self.past))), window)
        slots = self.pages * PAGE + np.random.default_rng(1).permutation(2 * PAGE)[: len(self.depths)]
        positions = [self.past, *(self.past + depth for depth in self.depths)]
        places = self.places(positions, [-1, *slots.tolist()])
        return self.read(kernels, cache, self.nodes, places, window), slots.astype(np.int32)

    def alone(self, kernels: Kernels, cache: LayerCache, node: int, window: int) -> np.ndarray:
        """What a node gives as the last of a plain sequence."""
        path = [0, *(number + 1 for number in path_to(self.depths, node))]
        joint = np.concatenate([self.before, self.nodes[path]])
        out = np.zeros(0, np.float32)
        for token in range(len(joint)):  # one by one, as sequential decoding does
            if token >= self.past:
                out = self.read(kernels, cache, joint[token : token + 1], self.places([token]), window)
            elif token == 0:
                self.read(kernels, cache, self.before, self.places(list(range(self.past))), window)
        return out[0]


SETTINGS = {
    "seed": st.integers(0, 99), "past": st.integers(1, 150), "draws": TREES, "shared": st.integers(1, 3),
    "group": st.integers(1, 4), "size": st.sampled_from([32, 64]), "window": st.sampled_from([0, 0, 5, 70]),
    "dtype": st.sampled_from(CACHE_DTYPES),
}  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(**SETTINGS)
def test_every_node_has_the_bits_of_sequential_reading(
    kernels: Kernels, seed: int, past: int, draws: list[int], shared: int, group: int, size: int,
    window: int, dtype: CacheDtype,
) -> None:  # fmt: skip
    depths = depths_of(draws)
    tree = Tree(seed, past, depths, shared, group, size)
    found, _ = tree.together(kernels, tree.cache(dtype), window)
    for node in range(len(depths)):
        expected = tree.alone(kernels, tree.cache(dtype), node, window)
        if kernels.instruction_set == "reference":  # NumPy's products round by their shapes
            np.testing.assert_allclose(found[node + 1], expected, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[node + 1], expected)


@settings(max_examples=12, deadline=None)
@given(**SETTINGS)
def test_threads_change_no_bit_and_the_reference_agrees(
    threaded: tuple[Kernels, Kernels], seed: int, past: int, draws: list[int], shared: int, group: int, size: int,
    window: int, dtype: CacheDtype,
) -> None:  # fmt: skip
    tree = Tree(seed, past, depths_of(draws), shared, group, size)
    one, three = (tree.together(each, tree.cache(dtype), window)[0] for each in threaded)
    np.testing.assert_array_equal(one, three)
    plain = tree.together(Kernels(1, "reference"), tree.cache(dtype), window)[0]
    if dtype in ("float32", "float16"):  # one rounding apart may be one code apart
        np.testing.assert_allclose(one, plain, atol=2e-3 if dtype == "float16" else 2e-5)


@settings(max_examples=12, deadline=None)
@given(**SETTINGS)
def test_what_is_taken_is_what_sequential_reading_leaves(
    kernels: Kernels, seed: int, past: int, draws: list[int], shared: int, group: int, size: int,
    window: int, dtype: CacheDtype,
) -> None:  # fmt: skip
    depths = depths_of(draws)
    tree = Tree(seed, past, depths, shared, group, size)
    cache, plain = tree.cache(dtype), tree.cache(dtype)
    _, slots = tree.together(kernels, cache, window)
    path = path_to(depths, len(depths) - 1)
    to = np.arange(past + 1, past + 1 + len(path), dtype=np.int32)  # the pages are 0 and up
    move_tokens([cache], slots[path], to)
    tree.alone(kernels, plain, len(depths) - 1, window)
    for page in range(past // PAGE, (past + len(path)) // PAGE + 1):
        kept = past + 1 + len(path) - page * PAGE
        np.testing.assert_array_equal(cache.keys(page)[:, :, :kept], plain.keys(page)[:, :, :kept])
        np.testing.assert_array_equal(cache.values(page)[:, :kept], plain.values(page)[:, :kept])


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_the_core_moves_as_numpy_does(dtype: CacheDtype) -> None:
    rng = np.random.default_rng(0)
    pool = rng.integers(0, 256, (3, 2, LayerCache.head_bytes(32, dtype)), dtype=np.uint8)
    one, other = LayerCache(pool.copy(), 32, dtype), LayerCache(pool.copy(), 32, dtype)
    slots, to = np.array([5, 130, 64], np.int32), np.array([70, 3, 191], np.int32)
    move_tokens([one], slots, to)
    other.move(slots, to)
    np.testing.assert_array_equal(one.pool, other.pool)
    assert (one.pool != pool).any()


def test_slots_outside_the_pool_are_refused(kernels: Kernels) -> None:
    tree = Tree(0, 3, [1, 1], 1, 1, 32)
    cache = tree.cache("float16")
    for slots in ([-1, 0, 3 * PAGE], [-1, -2, 0]):
        with pytest.raises(BadInput, match="a slot is outside"):
            tree.read(kernels, cache, tree.nodes, tree.places([3, 4, 4], slots), 0)
    with pytest.raises(BadInput, match="slots must be"):
        tree.read(kernels, cache, tree.nodes, tree.places([3, 4, 4], [0]), 0)
    with pytest.raises(BadInput, match="outside the 3 pages"):
        move_tokens([cache], np.array([0], np.int32), np.array([3 * PAGE], np.int32))
    with pytest.raises(BadInput, match="one a token"):
        move_tokens([cache], np.array([0, 1], np.int32), np.array([3], np.int32))
