"""Decoders fitted: the runtime's logits against torch and transformers; quality on held-out documentation."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType, quants
from torch import nn

import ondevice
from ondevice.artifact import Artifact
from ondevice.compress.calibration import Calibration
from ondevice.compress.plan import describe
from ondevice.compress.quantize.quantize import Quantize
from ondevice.data.text import Corpus, documentation
from ondevice.errors import BadInput, BudgetNotMet
from ondevice.models import zoo
from ondevice.models.load import load
from ondevice.verbs.judge import runtime_logits
from ondevice.verbs.open import open_language

WORDS = [
    "open",
    "read",
    "write",
    "file",
    "line",
    "number",
    "table",
    "value",
    "return",
    "object",
    "name",
    "error",
]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": " ".join(rng.choice(WORDS, 60))}) for _ in range(24)))
    return path


@pytest.mark.parametrize(
    ("family", "settings"),
    [("qwen3", {"tie_word_embeddings": True}), ("mistral", {}), ("qwen2", {"tie_word_embeddings": True})],
)
def test_a_decoder_becomes_an_artifact_that_runs_as_torch_says(
    tiny_decoder, texts, tmp_path, family, settings
):
    folder = tiny_decoder(family, **settings)
    result = ondevice.fit(
        folder,
        out=tmp_path / "out",
        device="raspberry-pi-4",
        data=texts,
        budget=ondevice.Budget(storage="100KB"),
    )
    assert Artifact(tmp_path / "out").storage_bytes == result.storage_bytes <= 100_000
    assert list(result.quality) == ["perplexity", "bits a byte", "divergence"]
    assert {entry["kind"] for entry in result.latency} == {"measured", "modelled"}
    rows = {row["layer"]: row["technique"] for row in result.plan}
    assert rows["model.embed_tokens"] == "quantize"
    assert ("lm_head" in rows) is not settings.get("tie_word_embeddings", False)
    json.dumps(result.to_json(), allow_nan=False)
    assert "perplexity" in (tmp_path / "out" / "report.html").read_text()
    command = [sys.executable, "-m", "ondevice", "run", str(tmp_path / "out"), "--prompt", "open", "--json"]
    written = json.loads(subprocess.run([*command, "--limit", "5"], capture_output=True, check=True).stdout)
    with open_language(tmp_path / "out", threads=1) as session:
        assert [piece.token for piece in session.generate("open", limit=5)] == written["tokens"]
        assert session.ends == {1}
        assert session.template.render([{"role": "user", "content": "hi"}]) == "<s>user: hi"


@pytest.mark.parametrize("activations", ["int8", "float"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_runtime_gives_the_logits_of_the_layers(tiny_decoder, texts, tmp_path, tied, activations):
    folder = tiny_decoder("llama", tie_word_embeddings=tied)
    ondevice.fit(
        folder, out=tmp_path / "out", device="raspberry-pi-4", data=texts,
        techniques=[f"quantize:bits=5,method=rtn,smooth=0,activations={activations}"],
    )  # fmt: skip
    model = load(folder)
    same = Quantize(bits=5, method="rtn", smooth=0, activations=activations).apply(model)
    (window,) = model.windows(["open the file and read a line of it"])
    ids = torch.tensor([window.ids])
    expected = same.outputs(ids, torch.ones_like(ids))[0, window.given - 1 : -1].numpy()
    with open_language(tmp_path / "out", threads=1) as session:
        logits = runtime_logits(session, window)
    # the cache keeps halves; and an activation that they move over a rounding's edge changes by a whole step
    limit = 2e-3 if activations == "float" else 0.05
    assert np.abs(logits - expected).max() <= limit * np.abs(expected).max()


def test_bad_input(tiny_decoder, texts, tmp_path):
    folder = tiny_decoder("llama")
    fit = {"out": tmp_path / "out", "device": "raspberry-pi-4", "data": texts}
    with pytest.raises(BudgetNotMet) as error:
        ondevice.fit(folder, budget=ondevice.Budget(storage="20KB"), **fit)
    assert error.value.limit == "storage"
    assert not (tmp_path / "out").exists()
    ondevice.fit(folder, techniques=["quantize:bits=8,method=rtn,smooth=0"], **fit)
    with pytest.raises(BadInput, match="open_language"):
        ondevice.open(tmp_path / "out")


@pytest.fixture(scope="module")
def corpus():
    whole = documentation()
    return Corpus(whole.calibration.take(range(40)), whole.test.take(range(10)))


@pytest.fixture(scope="module")
def held_out(corpus):
    """(original, windows, its perplexity by transformers' own loss)"""
    model = load("reference-lm")
    windows = model.windows(corpus.test.texts)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        zoo.locate("reference-lm"), dtype=torch.float32
    )
    return model, windows, perplexity(theirs, windows)


@torch.inference_mode()
def perplexity(module, windows):
    losses = torch.zeros((), dtype=torch.float64)
    for window in windows:
        ids = torch.tensor([window.ids])
        logits = module(input_ids=ids, use_cache=False).logits[0, :-1]
        losses += nn.functional.cross_entropy(logits.double(), ids[0, 1:], reduction="sum")
    return math.exp(losses / sum(window.judged for window in windows))


@pytest.fixture(scope="module")
def q4_0(held_out):
    """(bytes, perplexity) of every matrix as gguf's own code quantises and dequantises it: 18 bytes for 32 weights;
    where a row is no multiple of 32 it is padded, and the padding not counted."""
    model, windows, _ = held_out
    new, size = {}, 0
    for name, layer in model.module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)):
            columns = layer.weight.shape[1]
            padded = np.pad(layer.weight.numpy(), ((0, 0), (0, -columns % 32)))
            packed = quants.quantize(padded, GGMLQuantizationType.Q4_0)
            size += layer.weight.numel() * 18 // 32
            copy = nn.Linear(1, 1, bias=False) if isinstance(layer, nn.Linear) else nn.Embedding(1, 1)
            values = quants.dequantize(packed, GGMLQuantizationType.Q4_0)[:, :columns].copy()
            copy.weight = nn.Parameter(torch.from_numpy(values), requires_grad=False)
            new[name] = copy
    return size, perplexity(model.with_modules(new).module, windows)


def test_eight_bits_stay_within_a_thousandth(held_out):
    model, windows, original = held_out
    fitted = Quantize(bits=8, group_size=128, method="rtn", activations="float").apply(model)
    assert perplexity(fitted.module, windows) <= 1.001 * original


def test_a_plan_under_four_bits_and_a_half_beats_q4_0_in_fewer_bytes(corpus, held_out, q4_0, tmp_path):
    _, windows, original = held_out
    size, theirs = q4_0
    result = ondevice.fit(
        "reference-lm", out=tmp_path / "out", device="raspberry-pi-4", data=corpus,
        budget=ondevice.Budget(storage=round(0.95 * size) + 140_000),  # tokenizer, norms, what is said of them
    )  # fmt: skip
    assert sum(row["bytes"] for row in result.plan) < 0.97 * size
    surprise = 0.0
    with open_language(tmp_path / "out") as session:
        for window in windows:
            logits = torch.from_numpy(runtime_logits(session, window)).double()
            targets = torch.tensor(window.ids[window.given :])
            surprise += float(nn.functional.cross_entropy(logits, targets, reduction="sum"))
    ours = math.exp(surprise / sum(window.judged for window in windows))
    assert ours <= 1.02 * original
    assert ours <= theirs
    assert result.quality["perplexity"]["fitted"] == pytest.approx(ours, rel=1e-3)
    assert result.quality["perplexity"]["original"] == pytest.approx(original, rel=1e-3)


def test_the_floor_on_quality_is_a_ratio_of_perplexities(corpus, tmp_path):
    coarse = ["quantize:bits=2,method=rtn,smooth=0"]
    small = Corpus(corpus.calibration.take(range(8)), corpus.test.take(range(3)))
    with pytest.raises(BudgetNotMet) as error:
        ondevice.fit("reference-lm", out=tmp_path / "out", device="raspberry-pi-4", data=small, techniques=coarse,
                     budget=ondevice.Budget(quality=0.9))  # fmt: skip
    assert error.value.limit == "quality"
    assert not (tmp_path / "out").exists()


def test_gptq_loses_less_than_rounding_to_nearest(corpus, held_out):
    model, windows, original = held_out
    calibration = Calibration(corpus.calibration.texts[:24])
    for bits, most in ((4, 1.02), (3, math.inf)):
        both = [
            Quantize(bits=bits, method=method, activations="float").apply(model, calibration)
            for method in ("gptq", "rtn")
        ]
        assert len({sum(row["bytes"] for row in describe(each.module)) for each in both}) == 1
        ours, nearest = (perplexity(each.module, windows) for each in both)
        assert ours < nearest
        assert ours <= most * original
