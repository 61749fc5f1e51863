"""Continuous batching: what a text becomes does not depend on when it joins or who is beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.artifact import StoredTensor
from ondevice.errors import BadInput
from ondevice.kernels import PAGE, CacheDtype, Kernels
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.kv.paged import CacheFull


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        head_dim=32, max_position_embeddings=200,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return module


def engine(network: Any, chunk: int = 512, **settings: Any) -> Engine:
    tensors = {name: StoredTensor.dense(value.numpy()) for name, value in network.state_dict().items()}
    return Engine(Decoder(tensors, network.config.to_dict(), Kernels(2), **settings), chunk=chunk)


def prompt(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 61, count).tolist()


def written(run: Engine) -> dict[int, list[int]]:
    texts: dict[int, list[int]] = {}
    while run.running:
        for each in run.step():
            texts.setdefault(each.text, []).append(each.choice.token)
    return texts


def test_greedy_text_is_that_of_transformers(network: Any) -> None:
    start = prompt(1, 9)
    run = engine(network, cache_dtype="float32")
    got = [choice.token for choice in run.stream(start, limit=40)]
    want = network.generate(
        torch.tensor([start]), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert start + got == want[0].tolist()
    assert run.decoder.cache.bytes_used == 0


@settings(max_examples=10, deadline=None)
@given(
    starts=st.lists(
        st.tuples(st.integers(1, 90), st.integers(1, 30), st.integers(0, 12)), min_size=2, max_size=5
    ),
    chunk=st.sampled_from([1, 7, 64, 512]),
    temperature=st.sampled_from([0.0, 0.9]),
    dtype=st.sampled_from(["float16", "int8", "int4"]),
)
def test_company_changes_no_token(
    network: Any, starts: list[tuple[int, int, int]], chunk: int, temperature: float, dtype: CacheDtype
) -> None:
    """starts: length of the prompt, tokens to write, and steps to wait before joining."""
    run = engine(network, chunk, cache_tokens=5 * 128, cache_dtype=dtype)
    numbers: dict[int, int] = {}
    got: dict[int, list[int]] = {}
    for step in range(10**4):
        for index, (length, limit, join) in enumerate(starts):
            if join == step:
                sampling = Sampling(temperature, seed=index)
                numbers[run.add(prompt(index, length), sampling=sampling, limit=limit)] = index
        for each in run.step():
            got.setdefault(numbers[each.text], []).append(each.choice.token)
        if len(numbers) == len(starts) and not run.running:
            break
    for index, (length, limit, _) in enumerate(starts):
        alone = engine(network, cache_dtype=dtype)
        choices = alone.stream(prompt(index, length), sampling=Sampling(temperature, seed=index), limit=limit)
        assert got[index] == [choice.token for choice in choices]
    assert run.decoder.cache.bytes_used == 0


def test_texts_end_where_they_should(network: Any) -> None:
    run = engine(network, cache_dtype="float32")
    plain = [choice.token for choice in run.stream(prompt(4, 5), limit=30)]
    stop = plain[10]
    cut = [choice.token for choice in run.stream(prompt(4, 5), limit=30, stops=[stop])]
    assert cut == plain[: plain.index(stop)]
    short = engine(network, context=20)
    assert len(list(short.stream(prompt(4, 5), limit=100))) == 15


def test_leaving_early_frees_the_pages(network: Any) -> None:
    run = engine(network)
    stream = run.stream(prompt(0, 5), limit=50)
    next(stream)
    assert run.decoder.cache.bytes_used > 0
    stream.close()
    assert (run.decoder.cache.bytes_used, run.running) == (0, 0)
    run.cancel(123)


def test_a_text_waits_for_room(network: Any) -> None:
    run = engine(network, cache_tokens=PAGE)
    first, second = (run.add(prompt(seed, 40), limit=10) for seed in (1, 2))
    texts = written(run)
    assert {number: len(tokens) for number, tokens in texts.items()} == {first: 10, second: 10}
    alone = engine(network)
    assert texts[second] == [choice.token for choice in alone.stream(prompt(2, 40), limit=10)]


def test_a_text_that_never_fits_is_told(network: Any) -> None:
    run = engine(network, cache_tokens=PAGE)
    with pytest.raises(CacheFull, match="64 tokens is full"):
        run.add(prompt(1, 100))


def test_a_text_ends_where_the_cache_is_full(network: Any) -> None:
    run = engine(network, cache_tokens=PAGE)
    assert len(list(run.stream(prompt(1, 60), limit=100))) == 5
    assert run.decoder.cache.bytes_used == 0


@settings(max_examples=10, deadline=None)
@given(
    texts=st.lists(
        st.tuples(st.integers(0, 150), st.integers(1, 40), st.integers(1, 60)), min_size=2, max_size=6
    ),
    pages=st.integers(4, 12),
    keep=st.integers(0, 4),
    chunk=st.sampled_from([16, 512]),
)
def test_pages_that_are_short_or_shared_change_no_token(
    network: Any, texts: list[tuple[int, int, int]], pages: int, keep: int, chunk: int
) -> None:
    """texts: tokens that all begin with, tokens of its own, and how many to write; all at once, then all again."""
    run = Engine(engine(network, cache_tokens=pages * PAGE).decoder, chunk=chunk, keep=keep)
    prompts = [prompt(0, shared) + prompt(1 + number, own) for number, (shared, own, _) in enumerate(texts)]
    limits = [min(limit, 199 - len(each)) for each, (_, _, limit) in zip(prompts, texts)]
    room = pages * PAGE
    want = [
        [choice.token for choice in engine(network).stream(each, limit=limit)][: room + 1 - len(each)]
        for each, limit in zip(prompts, limits)
    ]
    for _ in range(2):
        numbers = [run.add(each, limit=limit) for each, limit in zip(prompts, limits)]
        got = written(run)
        assert [got[number] for number in numbers] == want
        assert run.decoder.cache.bytes_used == run.kept.nbytes


def test_what_was_read_before_is_not_read_again(network: Any) -> None:
    run = Engine(engine(network).decoder, keep=2)
    first = list(run.stream(prompt(1, 150), limit=3))
    assert run.reused == 0
    assert list(run.stream(prompt(1, 150), limit=3)) == first
    assert run.reused == 149
    list(run.stream(prompt(2, 10), limit=3))
    list(run.stream(prompt(3, 10), limit=3))
    assert len(run.kept) == 2
    assert run.kept.drop()
    assert run.kept.drop()
    assert not run.kept.drop()
    assert run.decoder.cache.bytes_used == run.kept.nbytes == 0


def test_texts_that_come_together_read_what_they_share_once(network: Any) -> None:
    run = engine(network, cache_tokens=1024)
    for seed in range(4):
        run.add(prompt(9, 130) + prompt(seed, 5), limit=4)
    written(run)
    assert 3 * 130 <= run.reused < 3 * 135


def test_bad_input(network: Any) -> None:
    run = engine(network, context=20)
    with pytest.raises(BadInput, match="no tokens"):
        run.add([])
    with pytest.raises(BadInput, match="holds 20 with the answer"):
        run.add(prompt(0, 20))
    with pytest.raises(BadInput, match="limit"):
        run.add([1], limit=0)
