"""A prompt cache in a file changes no token, and nothing that is not one of ours is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from ondevice.artifact import StoredTensor
from ondevice.kernels import Kernels
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.kv import saved


def engine(**settings: Any) -> Engine:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61, hidden_size=64, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=400,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config).eval()
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    tensors = {name: StoredTensor.dense(value.numpy()) for name, value in module.state_dict().items()}
    return Engine(Decoder(tensors, config.to_dict(), Kernels(1), **settings), keep=2)


def prompt(count: int) -> list[int]:
    return np.random.default_rng(3).integers(0, 61, count).tolist()


def text(run: Engine, start: list[int]) -> list[int]:
    return [choice.token for choice in run.stream(start, limit=20)]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("length", [1, 64, 150])
def test_tokens_are_the_same_with_and_without(tmp_path: Path, dtype: Any, length: int) -> None:
    first = engine(cache_dtype=dtype)
    want = text(first, prompt(length))
    latest = first.kept.latest()
    assert latest is not None
    saved.save(tmp_path / "cache", "model", *latest)
    second = engine(cache_dtype=dtype)
    found = saved.load(tmp_path / "cache", "model", second.decoder.cache)
    assert found is not None
    second.kept.keep(*found)
    assert text(second, prompt(length)) == want
    assert second.reused == length - 1
    longer = [*prompt(length), *want[:10], 5, 6]
    assert text(second, longer) == text(engine(cache_dtype=dtype), longer)


def test_what_cannot_be_used_is_passed_over(tmp_path: Path) -> None:
    run, path = engine(), tmp_path / "cache"
    assert saved.load(path, "model", run.decoder.cache) is None
    text(run, prompt(100))
    latest = run.kept.latest()
    assert latest is not None
    saved.save(path, "model", *latest)
    whole = path.read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["cache"]
    fresh = engine()
    with pytest.warns(UserWarning, match="another model"):
        assert saved.load(path, "other", fresh.decoder.cache) is None
    with pytest.warns(UserWarning, match="another model"):
        assert saved.load(path, "model", engine(cache_dtype="float32").decoder.cache) is None
    with pytest.warns(UserWarning, match="do not fit"):
        assert saved.load(path, "model", engine(cache_tokens=64).decoder.cache) is None
    for damaged in (
        b"",
        b"nonsense",
        whole[:-50],
        whole[:-50] + bytes(255 ^ byte for byte in whole[-50:]),
        whole[:200],
    ):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match="damaged|cannot be read"):
            assert saved.load(path, "model", fresh.decoder.cache) is None
    assert fresh.decoder.cache.bytes_used == 0
