"""The decoder against transformers: every family, on tiny networks with random weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ondevice.artifact import StoredTensor
from ondevice.data import corpora
from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import PAGE, CacheDtype, Kernels
from ondevice.measure.quality.text import log_probabilities, perplexity
from ondevice.models import zoo
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.kv.paged import CacheFull
from ondevice.runtime.weights.safetensors import Checkpoint

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_parameters": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
        "original_max_position_embeddings": 64}},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True, "num_key_value_heads": 4},
    "mistral": {"model_type": "mistral", "sliding_window": 30},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 2},
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 4, "moe_intermediate_size": 32,
                  "num_experts_per_tok": 3, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 6, "moe_intermediate_size": 32,
                  "num_experts_per_tok": 2, "norm_topk_prob": True},
    "olmoe": {"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16,
              "hidden_size": 64, "eos_token_id": 1},
}  # fmt: skip


@cache
def theirs(family: str) -> Any:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(**(SIZES | FAMILIES[family]))
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in module.named_parameters():  # norms and biases too must matter
        spread = 0.3 if "norm" in name or "bias" in name else 0.15
        parameter.data += spread * torch.randn(parameter.shape)
    return module


def ours(family: str, threads: int = 1, **settings: Any) -> Decoder:
    module = theirs(family)
    tensors = {name: StoredTensor.dense(value.numpy()) for name, value in module.state_dict().items()}
    if module.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return Decoder(tensors, module.config.to_dict(), Kernels(threads), **settings)


def expected(family: str, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        logits: np.ndarray = theirs(family)(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def some_ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 97, count).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_match_transformers(family: str) -> None:
    ids = some_ids(1, 100)
    decoder = ours(family, cache_dtype="float32")
    [got] = decoder.step([(decoder.cache.sequence(), ids)], every=True)
    np.testing.assert_allclose(got, expected(family, ids), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_see_the_hidden_states_of_transformers(family: str) -> None:
    ids, module = some_ids(4, 40), theirs(family)
    left: list[np.ndarray] = []
    handles = [
        layer.register_forward_hook(
            lambda _, __, out: left.append(
                (out[0] if isinstance(out, tuple) else out).reshape(40, -1).numpy()
            )
        )
        for layer in module.model.layers
    ]
    with torch.inference_mode():
        entered = module(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    decoder = ours(family, cache_dtype="float32")
    [plain] = decoder.step([(decoder.cache.sequence(), ids)])
    seen: dict[tuple[str, int], list[np.ndarray]] = {}
    decoder.before_layer = lambda layer, states: seen.setdefault(("before", layer), []).append(states)
    decoder.after_layer = lambda layer, states: seen.setdefault(("after", layer), []).append(states)
    sequence = decoder.cache.sequence()
    decoder.step([(sequence, ids[:23])])
    [watched] = decoder.step([(sequence, ids[23:])])
    np.testing.assert_array_equal(watched, plain)
    assert len(seen) == 2 * decoder.shape.layers
    for layer in range(decoder.shape.layers):
        for when, want in (("before", entered[layer][0].numpy()), ("after", left[layer])):
            np.testing.assert_allclose(np.concatenate(seen[when, layer]), want, atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_match_transformers(family: str) -> None:
    prompt = some_ids(2, 7)
    decoder = ours(family, threads=2, cache_dtype="float32")
    sequence, tokens, part = decoder.cache.sequence(), list(prompt), prompt
    for _ in range(64):
        [logits] = decoder.step([(sequence, part)])
        part = [int(logits[0].argmax())]
        tokens += part
    generated = theirs(family).generate(
        torch.tensor([prompt]), max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert tokens == generated[0].tolist()


@settings(max_examples=10, deadline=None)
@given(
    family=st.sampled_from(["llama", "mistral", "qwen3", "mixtral", "qwen2_moe", "olmoe"]),
    lengths=st.lists(st.integers(1, 140), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 139), max_size=4),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_batches_chunks_and_threads_change_no_bit(
    family: str, lengths: list[int], cuts: list[int], dtype: Any
) -> None:
    texts = [some_ids(seed, length) for seed, length in enumerate(lengths)]
    whole = ours(family, threads=3, cache_tokens=4 * 192, cache_dtype=dtype)
    together = whole.step([(whole.cache.sequence(), text) for text in texts], every=True)
    alone = ours(family, threads=1, cache_dtype=dtype)
    for text, logits in zip(texts, together):
        sequence, ends = (
            alone.cache.sequence(),
            sorted({cut for cut in cuts if cut < len(text)} | {len(text)}),
        )
        parts = [
            alone.step([(sequence, text[first:end])], every=True)[0] for first, end in zip([0, *ends], ends)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), logits)
        sequence.free()


def test_forks_and_ways_back_change_no_bit() -> None:
    past, ends = some_ids(5, 70), (some_ids(6, 9), some_ids(7, 9))
    plain = ours("llama", cache_tokens=4 * PAGE)
    want = []
    for end in ends:
        sequence = plain.cache.sequence()
        want.append(plain.step([(sequence, past + end)])[0])
        sequence.free()
    decoder = ours("llama", cache_tokens=4 * PAGE)
    one = decoder.cache.sequence()
    decoder.step([(one, past)])
    two = one.fork()
    assert decoder.cache.bytes_used == 2 * decoder.cache.page_bytes
    got = decoder.step([(one, ends[0]), (two, ends[1])])  # both write into the page that they share
    assert decoder.cache.bytes_used == 3 * decoder.cache.page_bytes
    np.testing.assert_array_equal(got, want)
    mark = len(past)
    one.rollback(mark)
    np.testing.assert_array_equal(decoder.step([(one, ends[1])])[0], want[1])
    one.free()
    two.free()
    assert decoder.cache.bytes_used == 0


def test_a_full_cache_changes_nothing() -> None:
    decoder = ours("llama", cache_tokens=2 * PAGE)
    one, two = decoder.cache.sequence(), decoder.cache.sequence()
    decoder.step([(one, some_ids(0, 40))])
    with pytest.raises(CacheFull, match="128 tokens is full"):
        decoder.step([(one, some_ids(1, 40)), (two, some_ids(2, 10))])
    assert (one.length, two.length, decoder.cache.bytes_used) == (40, 0, decoder.cache.page_bytes)
    [after] = decoder.step([(one, some_ids(1, 40))])
    fresh = ours("llama")
    [want] = fresh.step([(fresh.cache.sequence(), some_ids(0, 40) + some_ids(1, 40))])
    np.testing.assert_array_equal(after, want)


def test_bad_input() -> None:
    decoder = ours("llama", context=50)
    sequence = decoder.cache.sequence()
    for part, message in (
        ([97], "outside the vocabulary of 97"),
        ([-1], "outside the vocabulary"),
        ([], "no tokens"),
        ([1] * 51, "more than the context of 50"),
    ):
        with pytest.raises(BadInput, match=message):
            decoder.step([(sequence, part)])
    with pytest.raises(BadInput, match="twice"):
        decoder.step([(sequence, [1]), (sequence, [2])])
    assert decoder.step([]) == []
    assert sequence.length == 0


def test_what_cannot_be_read_is_refused() -> None:
    module = theirs("llama")
    tensors = {name: StoredTensor.dense(value.numpy()) for name, value in module.state_dict().items()}
    config = module.config.to_dict()
    with pytest.raises(UnsupportedModel, match="not 'mamba'"):
        Decoder(tensors, config | {"model_type": "mamba"}, Kernels())
    with pytest.raises(UnsupportedModel, match="hold a multiple of 16"):
        Decoder(tensors, config | {"head_dim": 12}, Kernels())
    with pytest.raises(BadArtifact, match="3 layers are stored"):
        Decoder(tensors, config | {"num_hidden_layers": 4}, Kernels())
    with pytest.raises(BadArtifact, match="do not have the sizes"):
        Decoder(tensors, config | {"num_key_value_heads": 4}, Kernels())
    short = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up" not in name}
    with pytest.raises(BadArtifact, match="up_proj"):
        Decoder(short, config, Kernels())


@pytest.mark.parametrize(("dtype", "most"), [("float16", 0.0002), ("int8", 0.003), ("int4", 0.03)])
def test_a_smaller_cache_costs_little(dtype: CacheDtype, most: float) -> None:
    folder = zoo.locate("reference-lm")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pages = corpora.texts(corpora.make("test", 4, seed=3, domains=("python",)))
    ids = [token for text in pages for token in tokenizer.encode(text).ids][:1025]
    found = []
    for kind in ("float32", dtype):
        config = json.loads((folder / "config.json").read_text())
        decoder = Decoder(Checkpoint(folder), config, Kernels(1), context=512, cache_dtype=kind)
        total = 0.0
        for start in (0, 512):
            sequence = decoder.cache.sequence()
            [logits] = decoder.step([(sequence, ids[start : start + 512])], every=True)
            total += float(log_probabilities(logits, ids[start + 1 : start + 513]).sum())
            sequence.free()
        found.append(perplexity(total, 1024))
    assert found[1] / found[0] - 1 <= most
