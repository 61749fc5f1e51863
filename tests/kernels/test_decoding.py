from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ondevice.errors import BadInput
from ondevice.kernels import PAGE, Bias, CacheDtype, Kernels, LayerCache, Places
from ondevice.kernels.pages import CACHE_DTYPES

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 130))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@settings(max_examples=20, deadline=None)
@given(size=SIZES, seed=st.integers(0, 99), update=st.booleans())
def test_rms_norm_matches_torch(kernels: Kernels, size: tuple[int, int], seed: int, update: bool) -> None:
    x, extra, gamma = normal(seed, *size), normal(seed + 1, *size), normal(seed + 2, size[1])
    total = x + extra if update else x.copy()
    want = functional.rms_norm(torch.from_numpy(total), (size[1],), torch.from_numpy(gamma), 1e-5).numpy()
    got = kernels.rms_norm(x, gamma, 1e-5, update=extra if update else None)
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(x, total)


@settings(max_examples=20, deadline=None)
@given(size=SIZES, seed=st.integers(0, 99), activation=st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]))
def test_gates_match_torch(kernels: Kernels, size: tuple[int, int], seed: int, activation: str) -> None:
    x = 8 * normal(seed, size[0], 2 * size[1])
    gate, value = torch.from_numpy(x).chunk(2, dim=1)
    act = {
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu_tanh": lambda v: functional.gelu(v, approximate="tanh"),
        "relu": functional.relu,
    }[activation]
    np.testing.assert_allclose(
        kernels.gated(x, activation), (act(gate) * value).numpy(), atol=1e-4, rtol=2e-5
    )


def test_silu_holds_far_from_zero(kernels: Kernels) -> None:
    x = np.array([[-1e4, -200, -90, 90, 1e4, 1, 1, 1, 1, 1]], np.float32)
    want = functional.silu(torch.from_numpy(x[:, :5])).numpy()
    np.testing.assert_allclose(kernels.gated(x, "silu"), want, atol=1e-30)


class Chat:
    """Sequences that grow, their pages dealt in a shuffled order."""

    def __init__(
        self, seed: int, lengths: list[int], heads: int, shared: int, size: int, dtype: CacheDtype
    ) -> None:
        random = np.random.default_rng(seed)
        pages = max(-(-length // PAGE) for length in lengths)
        self.heads, self.shared, self.size, self.lengths = heads, shared, size, lengths
        order = random.permutation(len(lengths) * pages + 2).astype(np.int32)
        self.tables = order[: len(lengths) * pages].reshape(len(lengths), pages).copy()
        self.cache = LayerCache.empty(len(order), shared, size, dtype)
        self.joint = [normal(seed + row, n, (heads + 2 * shared) * size) for row, n in enumerate(lengths)]
        angle = np.outer(np.arange(max(lengths)), 10000.0 ** -(np.arange(size // 2) / (size // 2)))
        self.cosine, self.sine = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def step(self, kernels: Kernels, parts: list[tuple[int, int, int]], window: int = 0) -> list[np.ndarray]:
        """The attention of tokens [first, end) of each sequence of a batch."""
        joint = np.concatenate([self.joint[row][first:end] for row, first, end in parts])
        places = Places(
            np.concatenate([np.full(end - first, row, np.int32) for row, first, end in parts]),
            np.concatenate([np.arange(first, end, dtype=np.int32) for _, first, end in parts]),
            self.tables,
        )
        kernels.remember(joint, self.heads, self.cache, places, self.cosine, self.sine)
        out = kernels.attend(joint, self.heads, self.cache, places, self.size**-0.5, window=window)
        return np.split(out, np.cumsum([end - first for _, first, end in parts])[:-1])

    def kept(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a sequence as the cache gives them back, (heads, tokens, size)."""
        n = self.lengths[row]
        pages = self.tables[row, : -(-n // PAGE)]
        keys = np.concatenate([self.cache.keys(page) for page in pages], axis=2)[:, :, :n]
        values = np.concatenate([self.cache.values(page) for page in pages], axis=1)[:, :n]
        return torch.from_numpy(keys).transpose(1, 2).contiguous(), torch.from_numpy(values)

    def expected(self, row: int, window: int = 0) -> np.ndarray:
        """By transformers' rotation and torch's attention."""
        n, size = self.lengths[row], self.size
        parts = torch.from_numpy(self.joint[row]).view(1, n, -1, size).transpose(1, 2)
        query, key, value = parts.split([self.heads, self.shared, self.shared], dim=1)
        both = [torch.from_numpy(np.tile(t[:n], (1, 2)))[None] for t in (self.cosine, self.sine)]
        query, key = apply_rotary_pos_emb(query, key, *both)
        kept = self.kept(row)
        for exact, stored in zip((key[0], value[0]), kept):
            step = {"float32": 0.0, "float16": 2**-10, "int8": 1 / 127, "int4": 1 / 7}[self.cache.dtype]
            room = (
                exact.abs().amax(-1, keepdim=True) * step * 0.501 + 1e-5
            )  # half a step, and that of the scale
            assert bool(((exact - stored).abs() <= room).all())
        key, value = (stored[None] for stored in kept)
        place = torch.arange(n)
        seen = place[:, None] >= place
        if window:
            seen &= place[:, None] - place < window
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, enable_gqa=True)
        return out[0].transpose(0, 1).reshape(n, -1).numpy()


CHATS = {
    "seed": st.integers(0, 999),
    "lengths": st.lists(st.integers(1, 150), min_size=1, max_size=3),
    "shared": st.integers(1, 3),
    "group": st.integers(1, 5),
    "size": st.sampled_from([32, 64, 96]),
    "window": st.sampled_from([0, 1, 40, 100]),
    "dtype": st.sampled_from(CACHE_DTYPES),
}


@settings(max_examples=12, deadline=None)
@given(**CHATS)
def test_attention_matches_torch(
    kernels: Kernels,
    seed: int,
    lengths: list[int],
    shared: int,
    group: int,
    size: int,
    window: int,
    dtype: CacheDtype,
) -> None:
    chat = Chat(seed, lengths, shared * group, shared, size, dtype)
    whole = chat.step(kernels, [(row, 0, n) for row, n in enumerate(lengths)], window)
    for row, got in enumerate(whole):
        np.testing.assert_allclose(
            got,
            chat.expected(row, window),
            atol=2e-5,
        )


@settings(max_examples=12, deadline=None)
@given(**CHATS, cuts=st.lists(st.integers(1, 149), max_size=4))
def test_chunks_batches_and_threads_change_no_bit(
    threaded: tuple[Kernels, Kernels],
    seed: int,
    lengths: list[int],
    shared: int,
    group: int,
    size: int,
    window: int,
    dtype: CacheDtype,
    cuts: list[int],
) -> None:
    one, three = threaded
    chat = Chat(seed, lengths, shared * group, shared, size, dtype)
    whole = chat.step(one, [(row, 0, n) for row, n in enumerate(lengths)], window)
    again = Chat(seed, lengths, shared * group, shared, size, dtype)
    for row, n in enumerate(lengths):
        ends = sorted({cut for cut in cuts if cut < n} | {n})
        parts = [again.step(three, [(row, first, end)], window)[0] for first, end in zip([0, *ends], ends)]
        np.testing.assert_array_equal(np.concatenate(parts), whole[row])


def test_heads_are_normalised_before_they_turn(kernels: Kernels) -> None:
    chat = Chat(1, [5], 4, 2, 16, "float32")
    gammas = normal(7, 16), normal(8, 16)
    joint = chat.joint[0].copy()
    places = Places(np.zeros(5, np.int32), np.arange(5, dtype=np.int32), chat.tables)
    kernels.remember(
        joint,
        4,
        chat.cache,
        places,
        chat.cosine,
        chat.sine,
        query_gamma=gammas[0],
        key_gamma=gammas[1],
        epsilon=1e-5,
    )
    parts = torch.from_numpy(chat.joint[0]).view(1, 5, 8, 16).transpose(1, 2)
    query, key = (
        functional.rms_norm(part, (16,), torch.from_numpy(gamma), 1e-5)
        for part, gamma in zip((parts[:, :4], parts[:, 4:6]), gammas)
    )
    both = [torch.from_numpy(np.tile(t[:5], (1, 2)))[None] for t in (chat.cosine, chat.sine)]
    query, key = apply_rotary_pos_emb(query, key, *both)
    want = torch.cat([query, key, parts[:, 6:]], dim=1)[0].transpose(0, 1).reshape(5, -1)
    np.testing.assert_allclose(joint, want.numpy(), atol=1e-5)
    np.testing.assert_array_equal(
        chat.cache.keys(chat.tables[0, 0])[:, :, :5], joint[:, 64:96].reshape(5, 2, 16).transpose(1, 2, 0)
    )


def test_halves_are_rounded_as_numpy_does(kernels: Kernels) -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    exact = every[np.isfinite(every)].astype(np.float32)
    values = np.concatenate([exact, exact * 1.0003, np.array([65519.9, 65520.0, 1e9, -6e-8])]).astype(
        np.float32
    )
    rows = -(-len(values) // 16)
    joint = np.zeros((rows, 48), np.float32)
    joint[:, 32:].reshape(-1)[: len(values)] = values
    joint[:, 32:] = np.resize(values, (rows, 16))
    cache = LayerCache.empty(-(-rows // PAGE), 1, 16)
    places = Places(
        np.zeros(rows, np.int32),
        np.arange(rows, dtype=np.int32),
        np.arange(len(cache.pool), dtype=np.int32)[None],
    )
    still = np.ones((rows, 8), np.float32), np.zeros((rows, 8), np.float32)
    kernels.remember(joint, 1, cache, places, *still)
    got = np.concatenate([cache.values(page)[0] for page in range(len(cache.pool))])[:rows]
    with np.errstate(over="ignore"):
        want = joint[:, 32:].astype(np.float16)
    np.testing.assert_array_equal(got, want.astype(np.float32))


def test_places_outside_the_cache_are_refused(kernels: Kernels) -> None:
    cache = LayerCache.empty(2, 1, 16)
    joint = np.zeros((1, 48), np.float32)

    def at(sequence: int, position: int, *table: int) -> Places:
        return Places(
            np.array([sequence], np.int32), np.array([position], np.int32), np.array([table], np.int32)
        )

    for places, message in (
        (at(1, 0, 0), "sequence that is none"),
        (at(0, 64, 0), "outside the 1 pages"),
        (at(0, -1, 0), "outside the 1 pages"),
        (at(0, 64, 0, 2), "page outside the 2"),
        (at(0, 0, -1), "page outside the 2"),
    ):
        with pytest.raises(BadInput, match=message):
            kernels.attend(joint, 1, cache, places, 1.0)
    with pytest.raises(BadInput, match="share"):
        kernels.attend(joint, 3, LayerCache.empty(1, 2, 16), at(0, 0, 0), 1.0)
    with pytest.raises(BadInput, match="multiple of 16"):
        LayerCache.empty(1, 1, 24)
    table = np.ones((3, 8), np.float32)
    with pytest.raises(BadInput, match="beyond the 3"):
        kernels.remember(joint, 1, cache, at(0, 5, 0), table, table)


@settings(max_examples=12, deadline=None)
@given(**CHATS, whole=st.booleans())
def test_a_bias_by_distance_matches_torch(
    kernels: Kernels,
    seed: int,
    lengths: list[int],
    shared: int,
    group: int,
    size: int,
    window: int,
    dtype: CacheDtype,
    whole: bool,
) -> None:
    """whole: each token sees all of its sequence, and the bias of tokens after it too."""
    chat, heads, most = Chat(seed, lengths, shared * group, shared, size, dtype), shared * group, 160
    chat.sine[:], chat.cosine[:] = 0, 1
    values = 3 * normal(seed + 9, heads, 2 * most + PAGE)
    sequences = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    own = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    seen = np.repeat(np.array(lengths, np.int32) - 1, lengths) if whole else own
    window = 0 if whole else window
    joint = np.concatenate(chat.joint)
    kernels.remember(joint, heads, chat.cache, Places(sequences, own, chat.tables), chat.cosine, chat.sine)
    bias = Bias(values, most - own)
    got = kernels.attend(
        joint, heads, chat.cache, Places(sequences, seen, chat.tables), 0.5, window=window, bias=bias
    )
    for row, n in enumerate(lengths):
        key, value = (stored[None] for stored in chat.kept(row))
        query = torch.from_numpy(chat.joint[row][:, : heads * size]).view(1, n, heads, size).transpose(1, 2)
        place = torch.arange(n)
        distance = place[None] - place[:, None]
        added = torch.from_numpy(values)[:, most + distance]
        if not whole:
            hidden = (distance > 0) | (distance <= -window if window else distance > n)
            added = added.masked_fill(hidden, -torch.inf)
        want = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=added[None], scale=0.5, enable_gqa=True
        )
        np.testing.assert_allclose(
            got[sequences == row], want[0].transpose(0, 1).reshape(n, -1).numpy(), atol=3e-5, rtol=3e-5
        )


def test_a_bias_that_does_not_reach_is_refused(kernels: Kernels) -> None:
    chat = Chat(0, [70], 2, 1, 32, "float32")
    places = Places(np.zeros(70, np.int32), np.arange(70, dtype=np.int32), chat.tables)
    starts = np.zeros(70, np.int32)
    for values, from_, message in (
        (np.zeros((2, 127), np.float32), starts, "outside the 127 values"),
        (np.zeros((2, 128), np.float32), starts - 1, "outside the 128 values"),
        (np.zeros((1, 128), np.float32), starts, r"float32 \(2, n\)"),
        (np.zeros((2, 128)), starts, "float64"),
        (np.zeros((2, 128), np.float32), starts[1:], "one a token"),
    ):
        with pytest.raises(BadInput, match=message):
            kernels.attend(
                chat.joint[0], 2, chat.cache, places, 1.0, bias=Bias(values, np.ascontiguousarray(from_))
            )
