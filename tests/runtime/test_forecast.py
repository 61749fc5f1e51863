"""Counts against files that are really written; forecasts against the roofline by hand, and their order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ondevice.devices.profile import Sourced, load
from ondevice.errors import BadInput
from ondevice.kernels import PAGE
from ondevice.kernels.pages import CACHE_DTYPES
from ondevice.runtime.forecast import RuntimeModel, cache_bytes, decode_bytes, forecast, scaled, weight_bytes
from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.shapes import SHAPES

SMALL = SHAPES["llama-3.2-1b"] | {"num_hidden_layers": 2, "vocab_size": 8192}
NOTHING = Sourced(0.0, "assumed: none")
WHOLE = Sourced(1.0, "assumed: all of it")
IDEAL = RuntimeModel("ideal", WHOLE, WHOLE, NOTHING, WHOLE)


@pytest.mark.parametrize("bits", [4, 8])
def test_bytes_are_those_of_the_tensors(bits: int) -> None:
    _, tensors = random_decoder(SMALL, bits=bits)
    stored = sum(each.array.nbytes for each in tensors.values())
    assert weight_bytes(SMALL, f"tiles{bits}") == pytest.approx(stored, rel=0.01)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "bf16"])
def test_bytes_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs gguf: pip install 'ondevice-ml[gguf]'")
    from ondevice.backends.peers.random_gguf import write_random_gguf

    size = write_random_gguf(tmp_path / "a.gguf", SMALL, kind).stat().st_size
    assert weight_bytes(SMALL, kind) == pytest.approx(size, rel=0.02)


def test_a_token_reads_all_weights_and_the_cache() -> None:
    # 2 x 8 heads x 64 values x 2 layers x 2 bytes
    assert cache_bytes(SMALL, 100) == 2 * 8 * 64 * 2 * 2 * 100
    assert decode_bytes(SMALL, "q8_0", 100) == pytest.approx(
        weight_bytes(SMALL, "q8_0") + cache_bytes(SMALL, 100)
    )
    untied = SMALL | {"tie_word_embeddings": False}  # of an untied table one row is read
    assert decode_bytes(untied, "q8_0", 0) == pytest.approx(weight_bytes(SMALL, "q8_0"))


def test_a_cache_of_fewer_bits_is_counted_as_it_is_kept() -> None:
    for dtype in CACHE_DTYPES:
        cache = PagedCache(3 * PAGE, 2, 8, 64, dtype)
        assert cache_bytes(SMALL, 3 * PAGE, dtype) == cache.nbytes
    board = load("raspberry-pi-5")
    wide, narrow = (
        forecast(SHAPES["llama-3.2-1b"], "q4_0", board, IDEAL, prompt=4096, cache=dtype)
        for dtype in ("float16", "int4")
    )
    assert wide.decode is not None
    assert narrow.decode is not None
    assert (narrow.memory < wide.memory, narrow.decode > wide.decode) == (True, True)


def test_decode_is_bandwidth_over_bytes_and_prefill_is_faster() -> None:
    board = replace(load("raspberry-pi-5"), achieved=None)
    it = forecast(SHAPES["llama-3.2-1b"], "q4_0", board, IDEAL, prompt=128, tokens=128)
    assert it.fits
    assert it.decode is not None
    assert it.prefill is not None
    bound = board.memory[-1].bandwidth.value / weight_bytes(SHAPES["llama-3.2-1b"], "q4_0")
    assert 0.85 * bound < it.decode < bound
    assert it.prefill > 4 * it.decode


def test_a_slower_runtime_and_a_larger_model_are_slower() -> None:
    board = load("raspberry-pi-5")
    speeds = []
    for shape, factor in (("smollm2-135m", 1.0), ("llama-3.2-1b", 1.0), ("llama-3.2-1b", 0.5)):
        speed = forecast(SHAPES[shape], "q4_0", board, scaled(IDEAL, factor)).decode
        assert speed is not None
        speeds.append(speed)
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[2] == pytest.approx(speeds[1] / 2, rel=0.02)


def test_what_does_not_fit_has_no_speed_and_says_what_it_needs() -> None:
    it = forecast(SHAPES["llama-3.1-8b"], "q8_0", load("raspberry-pi-4"), IDEAL)
    assert not it.fits
    assert (it.decode, it.prefill, it.first) == (None, None, None)
    assert it.memory > weight_bytes(SHAPES["llama-3.1-8b"], "q8_0") > it.allowed
    with pytest.raises(BadInput, match="4 cores, not 5 threads"):
        forecast(SMALL, "q4_0", load("raspberry-pi-5"), IDEAL, threads=5)
    with pytest.raises(BadInput, match="no format 'q9'"):
        weight_bytes(SMALL, "q9")
