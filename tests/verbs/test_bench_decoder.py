"""bench of models that write: rows, ratios and energy follow from what was measured; what cannot run is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install 'ondevice-ml[peers]'")

from ondevice.backends.peers.llama_cpp import llama_cpp_build
from ondevice.devices.profile import load
from ondevice.errors import BadInput, MissingExtra
from ondevice.verbs import bench_decoder as verb
from ondevice.verbs.bench_decoder import bench_decoder


def test_a_published_shape_beside_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = MissingExtra("torch", "fit")
    monkeypatch.setattr(verb, "missing_decoder", lambda name: absent if name == "torch" else None)
    board = load("raspberry-pi-5")
    result = bench_decoder(
        against=["llama.cpp", "torch"], random="smollm2-135m", prompt=16, tokens=4, threads=[1], repeats=2,
        device=board,
    )  # fmt: skip
    ours, theirs = result.rows
    assert [(row.engine, row.variant) for row in result.rows] == [
        ("native", "4-bit tiles"), ("llama.cpp", f"q4_0, {llama_cpp_build()}")
    ]  # fmt: skip
    assert ours.ratios["decode"] == {"median": 1.0, "interval": None, "compared": "tie"}
    assert theirs.ratios["prefill"]["median"] == theirs.prefill.median / ours.prefill.median
    for row in result.rows:
        assert row.prefill.samples == tuple(16 / each for each in row.first.samples)
        assert (row.prefill.n, row.prefill.kind, row.memory.kind) == (2, "measured", "measured")
        assert row.memory.median > 70e6  # at least the weights
        assert row.energy is not None
        # a processor whose counters can be read gives joules; else they are modelled, and say so
        assert row.energy.kind == ("measured" if verb.Rapl().readable else "modelled")
    assert ours.load is None  # the weights were made up, nothing was loaded
    assert theirs.load is not None
    assert result.skipped == [{"engine": "torch", "reason": str(absent)}]
    json.dumps(result.to_json(), allow_nan=False)


def test_a_model_of_the_zoo_beside_its_own_gguf_form() -> None:
    result = bench_decoder("reference-lm", ["llama.cpp"], bits=8, prompt=8, tokens=3, threads=[1], repeats=1)
    ours, theirs = result.rows
    assert (theirs.engine, theirs.variant) == ("llama.cpp", f"q8_0, {llama_cpp_build()}")
    assert ours.load is not None
    assert ours.energy is None or ours.energy.kind == "measured"
    assert result.settings["model"] == "reference-lm"


def test_a_peer_that_cannot_read_the_model_is_named(tmp_path: Path) -> None:
    from ondevice.backends.peers.random_gguf import write_random_gguf
    from ondevice.runtime.weights.shapes import SHAPES

    path = write_random_gguf(
        tmp_path / "a.gguf", SHAPES["gemma-2b"] | {"num_hidden_layers": 1, "vocab_size": 1024}
    )
    result = bench_decoder(path, ["openvino"], prompt=8, tokens=3, threads=[1], repeats=1)
    assert [row.engine for row in result.rows] == ["native"]
    assert result.skipped[0]["engine"] == "openvino"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": "a", "random": "b"}, "name a model, or the shape"),
        ({}, "name a model, or the shape"),
        ({"random": "gpt-5"}, "no shape 'gpt-5'"),
        ({"random": "smollm2-135m", "bits": 3}, "4 or 8 bits"),
        ({"model": "a", "against": ["mlc"]}, "no engine 'mlc'; there are: llama.cpp"),
        ({"model": "a", "tokens": 1}, "2 tokens or more"),
        ({"model": "no/such/folder"}, "our runtime does not run it"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        bench_decoder(**arguments)  # type: ignore[arg-type]
