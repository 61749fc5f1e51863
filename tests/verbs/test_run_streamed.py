"""A model larger than its memory writes the same tokens, in a process that stays within its limit."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ondevice.errors import BudgetNotMet, MissingTool
from ondevice.measure.confine import Confined, confine
from ondevice.measure.memory import run_command
from ondevice.models import zoo
from ondevice.verbs.run import open_within
from ondevice.verbs.serve import application

# Reads a prompt longer than a step and writes; says what, and how much was streamed.
_WRITE = """
import json, sys
from ondevice.verbs.run import open_within
with open_within(sys.argv[1], sys.argv[2], threads=2, context=300) as session:
    tokens = [each.token for each in session.engine.stream([*range(3, 153)], limit=6)]
    streamed = session.residency.streamed if session.residency else 0
    json.dump([tokens, streamed], open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of 134 MB of weights."""
    where = tmp_path_factory.mktemp("models") / "deep"
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=640, intermediate_size=2048, num_hidden_layers=11, num_attention_heads=10,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.float16).save_pretrained(where)
    (where / "tokenizer.json").symlink_to(zoo.locate("reference-lm") / "tokenizer.json")
    return where


@pytest.fixture(scope="module")
def tokens(folder: Path) -> list[int]:
    with open_within(folder, None, threads=1, context=300) as session:
        return [each.token for each in session.engine.stream([*range(3, 153)], limit=6)]


def written(folder: Path, limit: str, where: Path) -> list[str]:
    return [sys.executable, "-c", _WRITE, str(folder), limit, str(where)]


def test_tokens_are_the_same_and_the_limit_is_kept(folder: Path, tokens: list[int], tmp_path: Path) -> None:
    streamed = []
    for limit in (120, 150, 400):
        run = run_command(written(folder, f"{limit}MB", tmp_path / "said"), timeout=200)
        got, size = json.loads((tmp_path / "said").read_text())
        assert got == tokens
        assert run.peak_bytes <= limit * 1e6
        streamed.append(size)
    assert streamed[0] > streamed[1] + 25_000_000
    assert streamed[2] == 0


def _confined(confined: Confined, command: list[str]) -> None:
    confined.enter()
    subprocess.run(command, check=True)


def test_the_system_holds_it_to_the_limit(folder: Path, tokens: list[int], tmp_path: Path) -> None:
    try:
        with confine(130_000_000) as confined:
            command = written(
                folder, "115MB", tmp_path / "said"
            )  # the rest is for the process that starts it
            spawn = multiprocessing.get_context("spawn")
            process = spawn.Process(target=_confined, args=(confined, command))
            process.start()
            process.join()
    except MissingTool as problem:
        pytest.skip(str(problem))
    assert process.exitcode == 0
    assert json.loads((tmp_path / "said").read_text())[0] == tokens


def test_what_is_chosen_is_said(folder: Path) -> None:
    command = [sys.executable, "-m", "ondevice", "run", str(folder), "--prompt", "The file", "--limit", "2"]
    run = subprocess.run([*command, "--memory", "130MB"], capture_output=True, text=True, check=True)
    assert "of the weights stay in memory" in run.stderr
    assert "tokens/s" in run.stderr
    refused = subprocess.run([*command, "--memory", "60MB"], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "with weights streamed" in refused.stderr


def test_too_little_memory_is_refused_with_the_least_that_would_do(folder: Path) -> None:
    with pytest.raises(BudgetNotMet, match="for what is streamed at once make"):
        open_within(folder, "60MB", context=64)


def test_serve_streams_too(folder: Path, tokens: list[int]) -> None:
    from ondevice.runtime.budget import resident_bytes

    limit = resident_bytes() + 100_000_000
    made: Any = application(folder, threads=1, context=300, memory=limit)
    engine = made.served.model.engine
    assert [each.token for each in engine.stream([*range(3, 153)], limit=6)] == tokens
