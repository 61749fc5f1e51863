"""What is heard of routers is what transformers' routers say; what is told of paths is their share in the counts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.moe.predictor import Foresight, PathPredictor
from ondevice.runtime.moe.trace import RouterTrace, mixtures, uses
from ondevice.runtime.weights.eviction import FrequencyOverDistance
from ondevice.runtime.weights.experts import ExpertCache, experts_of, least_memory
from ondevice.runtime.weights.safetensors import Checkpoint

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "num_experts_per_tok": 2,
    "model_type": "mixtral", "num_local_experts": 5, "eos_token_id": 1,
}  # fmt: skip
TEXT = [3, 50, 7, 7, 42, 96, 0, 11, 5, 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    module = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**SIZES)).eval()
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    where = tmp_path_factory.mktemp("mixtral")
    module.save_pretrained(where)
    return where


def decoder_of(tensors: Any) -> Decoder:
    config = transformers.AutoConfig.for_model(**SIZES).to_dict()
    return Decoder(tensors, config, Kernels(1), context=64, cache_dtype="float32")


def test_what_is_heard_is_what_transformers_routers_choose(folder: Path) -> None:
    decoder = decoder_of(Checkpoint(folder))
    trace, sequence = RouterTrace(decoder), decoder.cache.sequence()
    decoder.step([(sequence, TEXT[:6])])
    for token in TEXT[6:]:
        decoder.step([(sequence, [token])])
    module = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        logits = module(torch.tensor([TEXT]), output_router_logits=True).router_logits
    want = torch.stack([each.topk(2).indices for each in logits], dim=1).numpy()
    assert trace.layers == [0, 1, 2]
    np.testing.assert_array_equal(trace.choices, want)
    assert list(uses(trace.choices, trace.layers))[1] == [(1, number) for number in sorted(want[0, 1])]


def test_a_dense_model_has_no_router(tmp_path: Path) -> None:
    config = SIZES | {"model_type": "llama"}
    transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    ).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="dense"):
        RouterTrace(Decoder(Checkpoint(tmp_path), config, Kernels(1)))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_probabilities_are_shares_of_the_longest_path_that_was_seen_eight_times(
    seed: int, tokens: int
) -> None:
    random = np.random.default_rng(seed)
    flat = np.array([random.choice(4, 2, replace=False) for _ in range(tokens * 2)])
    predictor = PathPredictor([0, 2], experts=4, used=2)
    predictor.learn(flat.reshape(tokens, 2, 2))
    steps = [(number % 2, frozenset(each.tolist())) for number, each in enumerate(flat)]
    counts = [Counter[Any](), Counter[Any](), Counter[Any]()]  # by brute force, of paths of 0, 1 and 2 layers
    found: dict[Any, Counter[int]] = {}
    for number, (place, chosen) in enumerate(steps):
        for back in range(min(number, 2) + 1):
            key = place, tuple(each for _, each in steps[number - back : number])
            counts[back][key] += 1
            found.setdefault(key, Counter()).update(chosen)
    for number in range(2, len(steps)):
        place, path = number % 2, tuple(each for _, each in steps[number - 2 : number])
        told = predictor.probabilities(place, flat[number - 2 : number])
        assert told.sum() == pytest.approx(2)
        for back in (2, 1, 0):
            key = place, path[2 - back :]
            seen = counts[back][key]
            if seen >= (8 if back else 1):
                want = [found[key][expert] / seen for expert in range(4)]
                np.testing.assert_allclose(told, want, atol=0.02)
                break


def test_paths_that_repeat_are_told_where_frequencies_tell_nothing() -> None:
    random = np.random.default_rng(0)
    first = np.array([random.choice(8, 2, replace=False) for _ in range(4000)])
    text = np.stack([first, (first + 3) % 8, (first + 5) % 8], axis=1)  # a layer follows from the one before
    predictor = PathPredictor([0, 1, 2], experts=8, used=2)
    predictor.learn(text[:3000])
    by_path, by_frequency = predictor.recall(text[3000:]), predictor.recall(text[3000:], paths=False)
    assert by_path > 0.7  # two layers of three, and chance in the first
    assert by_frequency < 0.4


def test_a_profile_is_read_back_and_one_of_another_model_is_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    text = np.array([[random.choice(6, 2, replace=False) for _ in range(2)] for _ in range(300)])
    predictor = PathPredictor([0, 1], experts=6, used=2)
    predictor.learn(text)
    predictor.save(tmp_path / "profile.json")
    again = PathPredictor.load(tmp_path / "profile.json", [0, 1], 6, 2)
    for at in range(100):
        path = text.reshape(-1, 2)[at : at + 2]
        np.testing.assert_array_equal(again.probabilities(0, path), predictor.probabilities(0, path))
    with pytest.raises(BadInput, match=r"2 of 6 experts in 2 layers; this one uses 2 of 8"):
        PathPredictor.load(tmp_path / "profile.json", [0, 1], 8, 2)
    for damage in ("{", json.dumps({"layers": [0, 1], "experts": 6, "used": 2, "paths": [[0, [], 3, [1]]]})):
        (tmp_path / "damaged.json").write_text(damage)
        with pytest.raises(BadInput, match="not a profile"):
            PathPredictor.load(tmp_path / "damaged.json", [0, 1], 6, 2)
    with pytest.raises(BadInput, match="cannot be predicted"):
        PathPredictor([0], experts=2, used=3)


def test_foresight_changes_no_token_and_brings_experts_before_they_are_called(folder: Path) -> None:
    tensors = Checkpoint(folder)
    want = _written(decoder_of(tensors))
    heard = decoder_of(tensors)
    trace = RouterTrace(heard)
    _written(heard)
    found = mixtures(heard)
    memory = least_memory(experts_of(tensors), 2) * 2
    alone, told = (ExpertCache(tensors, memory, used=2, policy=FrequencyOverDistance(3)) for _ in range(2))
    assert _written(decoder_of(alone)) == want
    predictor = PathPredictor(trace.layers, found[0].count, found[0].used)
    for _ in range(8):
        predictor.learn(trace.choices)  # so that it knows this text's paths
    decoder = decoder_of(told)
    foresight = Foresight(told, predictor)
    for each in mixtures(decoder):
        each.listeners.append(foresight)
    assert _written(decoder) == want
    assert told.stats.misses < 0.7 * alone.stats.misses


def _written(decoder: Decoder, tokens: int = 30) -> list[int]:
    sequence = decoder.cache.sequence()
    [logits] = decoder.step([(sequence, TEXT)])
    written = [int(logits[0].argmax())]
    while len(written) < tokens:
        [logits] = decoder.step([(sequence, [written[-1]])])
        written.append(int(logits[0].argmax()))
    return written
