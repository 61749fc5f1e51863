"""The encoder-decoder against transformers: tiny networks with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import PAGE, CacheDtype, Kernels
from ondevice.numerics.tiles import quantize_tiled
from ondevice.runtime.encdec import EncoderDecoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.kv.paged import CacheFull

SIZES: dict[str, Any] = {
    "vocab_size": 97, "d_model": 48, "d_ff": 80, "d_kv": 16, "num_heads": 4, "num_layers": 3, "num_decoder_layers": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {},
    "t5, few buckets": {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20},
    "version 1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated silu": {"feed_forward_proj": "gated-silu"},
}
LIMIT = 64


@cache
def theirs(family: str) -> Any:
    torch.manual_seed(3)
    module = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**(SIZES | FAMILIES[family]))
    ).eval()
    if family == "version 1.1":
        module.lm_head.weight = torch.nn.Parameter(torch.randn(97, 48))
    for name, parameter in module.named_parameters():
        spread = 0.3 if "norm" in name else 1.0 if "relative" in name or "shared" in name else 0.15
        parameter.data = spread * torch.randn(parameter.shape) + (1 if "norm" in name else 0)
    return module


def tensors(family: str) -> dict[str, StoredTensor]:
    """As a checkpoint holds them: the table once."""
    state = theirs(family).state_dict()
    left_out = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    left_out |= set() if family == "version 1.1" else {"lm_head.weight"}
    return {name: StoredTensor.dense(value.numpy()) for name, value in state.items() if name not in left_out}


def ours(
    family: str, threads: int = 1, dtype: CacheDtype = "float32", texts: int = 4, context: int | None = None
) -> EncoderDecoder:
    return EncoderDecoder(
        tensors(family), theirs(family).config.to_dict(), Kernels(threads), cache_dtype=dtype, context=context,
        cache_tokens=texts * 2 * 192,
    )  # fmt: skip


def greedy(
    model: EncoderDecoder, sources: list[list[int]], limit: int, stops: Sequence[int] = ()
) -> list[list[int]]:
    """What the engine writes of all at once."""
    engine = Engine(model)
    numbers = [engine.add(source, limit=limit, stops=stops) for source in sources]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    while engine.running:
        for each in engine.step():
            assert each.finish != "error", each.error
            if each.finish != "stop":
                found[each.text].append(each.choice.token)
    assert model.cache.bytes_used == 0
    return list(found.values())


def some_ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, 97, count).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_transformers(family: str) -> None:
    source, written = some_ids(1, 150), [0, *some_ids(2, 149)]
    with torch.inference_mode():
        want = theirs(family)(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([written]))
    model = ours(family)
    np.testing.assert_allclose(
        model.encode([source])[0], want.encoder_last_hidden_state[0].numpy(), atol=2e-4
    )
    [text] = model.begin([source])
    [got] = model.step([(text, written)], every=True)
    np.testing.assert_allclose(got, want.logits[0].numpy(), atol=2e-4 * float(want.logits.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_of_a_padded_batch_match_transformers(family: str) -> None:
    sources = [some_ids(seed, length) for seed, length in enumerate((7, 33, 1, 20))]
    longest = max(map(len, sources))
    ids = torch.tensor([source + [0] * (longest - len(source)) for source in sources])
    mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
    generated = theirs(family).generate(
        ids, attention_mask=mask, max_new_tokens=LIMIT, do_sample=False, eos_token_id=None
    )
    assert greedy(ours(family, threads=2), sources, LIMIT) == generated[:, 1:].tolist()
    for source, want in zip(sources, generated[:, 1:].tolist()):
        assert greedy(ours(family), [source], LIMIT) == [want]


def test_a_text_ends_where_the_model_ends_it() -> None:
    model, sources = ours("t5"), [some_ids(3, 9), some_ids(4, 12)]
    whole = greedy(model, sources, 20)
    end = whole[0][7]
    want = [each[: each.index(end)] if end in each else each for each in whole]
    assert greedy(model, sources, 20, [end]) == want


@settings(max_examples=8, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 89), max_size=4),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
)
def test_batches_chunks_and_threads_change_no_bit(
    family: str, lengths: list[int], cuts: list[int], dtype: CacheDtype
) -> None:
    sources = [some_ids(seed, length) for seed, length in enumerate(lengths)]
    written = [[0, *some_ids(seed + 50, 89)] for seed in range(len(sources))]
    whole = ours(family, threads=3, dtype=dtype)
    together = whole.step(list(zip(whole.begin(sources), written)), every=True)
    alone, ends = ours(family, dtype=dtype), sorted({*cuts, 90})
    for source, tokens, logits in zip(sources, written, together):
        [text] = alone.begin([source])
        parts = [alone.step([(text, tokens[a:b])], every=True)[0] for a, b in zip([0, *ends], ends)]
        np.testing.assert_array_equal(np.concatenate(parts), logits)
        text.free()


def test_texts_wait_for_room_and_one_that_gives_way_is_written_the_same() -> None:
    sources = [some_ids(seed, 30 + 40 * seed) for seed in range(4)]
    want = [greedy(ours("t5"), [source], 100)[0] for source in sources]
    assert greedy(ours("t5", texts=1), sources, 100) == want  # one source and its text have all of the cache


def test_a_fork_goes_its_own_way_from_the_same_source() -> None:
    model, source = ours("version 1.1"), some_ids(1, 30)
    ends = [some_ids(2, 5), some_ids(3, 5)]
    [one] = model.begin([source])
    model.step([(one, [0, 5, 6])])
    two = one.fork()
    got = model.step([(one, ends[0]), (two, ends[1])])
    for end, logits in zip(ends, got):
        alone = ours("version 1.1")
        [fresh] = alone.begin([source])
        np.testing.assert_array_equal(alone.step([(fresh, [0, 5, 6, *end])])[0], logits)
    one.free()
    assert model.cache.bytes_used > 0
    two.free()
    assert model.cache.bytes_used == 0


def test_tiles_are_read_as_they_are() -> None:
    packed, exact = dict(tensors("version 1.1")), dict(tensors("version 1.1"))
    for name, tensor in exact.items():
        if tensor.array.ndim == 2 and "relative" not in name:
            tiles = quantize_tiled(tensor.array, 8)
            kind = {
                "kind": "tiles",
                "rows": tiles.rows,
                "columns": tiles.columns,
                "bits": 8,
                "group_size": 32,
            }
            packed[name] = StoredTensor(kind | {"activations": "float"}, tiles.to_bytes())
            exact[name] = StoredTensor.dense(tiles.dequantize())
    config, found = theirs("version 1.1").config.to_dict(), []
    for each in (packed, exact):
        model = EncoderDecoder(each, config, Kernels(1))
        found.append(model.step([(model.begin([some_ids(1, 20)])[0], [0, 5, 6])])[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


def test_bad_input() -> None:
    model = ours("t5")
    [text] = model.begin([[5, 6]])
    for sources, message in (([], "no text"), ([[]], "no tokens"), ([[97]], "outside the vocabulary of 97")):
        with pytest.raises(BadInput, match=message):
            model.begin(sources)
    for part, message in (([], "no tokens"), ([-1], "outside the vocabulary")):
        with pytest.raises(BadInput, match=message):
            model.step([(text, part)])
    with pytest.raises(BadInput, match="twice"):
        model.step([(text, [0]), (text, [1])])
    assert model.step([]) == []
    assert text.length == 0
    short = ours("t5", context=20, texts=1)
    with pytest.raises(BadInput, match="context holds 20"):
        short.begin([[5] * 21])
    [text] = short.begin([[5] * 20])
    with pytest.raises(BadInput, match="context of 20"):
        short.step([(text, [5] * 21)])
    used = short.cache.bytes_used
    assert used == short.cache.page_bytes
    with pytest.raises(CacheFull):
        short.begin([[5] * 20] * (short.cache.tokens // PAGE))
    assert short.cache.bytes_used == used
    with pytest.raises(CacheFull, match="is full"):
        Engine(ours("t5", texts=1)).add([5] * 384)


def test_what_cannot_be_read_is_refused() -> None:
    stored, config = tensors("t5"), theirs("t5").config.to_dict()
    for changed, message in (
        ({"model_type": "bart"}, "not 'bart'"),
        ({"feed_forward_proj": "gated-swish2"}, "gated-swish2"),
        ({"d_kv": 12}, "multiple of 16"),
    ):
        with pytest.raises(UnsupportedModel, match=message):
            EncoderDecoder(stored, config | changed, Kernels(1))
    for changed, message in (
        ({"num_layers": None}, "lacks a size"),
        ({"num_layers": 4}, r"encoder\.block\.3"),
        ({"num_heads": 3}, "sizes of config.json"),
        ({"relative_attention_num_buckets": 16}, r"shape \(32, 4\)"),
        ({"relative_attention_max_distance": 9}, "more than half"),
    ):
        with pytest.raises(BadArtifact, match=message):
            EncoderDecoder(stored, config | changed, Kernels(1))
