"""A mixture whose experts do not all fit writes the same tokens from every door, and says what became of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ondevice.errors import BadInput, BudgetNotMet
from ondevice.measure.memory import run_command
from ondevice.models import zoo
from ondevice.verbs.run import open_within
from ondevice.verbs.serve import application

# Reads and writes within a limit; says what, and what became of the experts.
_WRITE = """
import json, sys
from dataclasses import asdict
from ondevice.verbs.run import open_within
with open_within(sys.argv[1], sys.argv[2], threads=1, context=300) as session:
    tokens = [each.token for each in session.engine.stream([*range(3, 153)], limit=6)]
    said = asdict(session.experts.stats) if session.experts else {}
    json.dump([tokens, said], open(sys.argv[3], "w"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of 113 MB, of which 101 MB are experts."""
    where = tmp_path_factory.mktemp("models") / "mixture"
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=4096, num_local_experts=32,
        num_experts_per_tok=2, tie_word_embeddings=True,
    )  # fmt: skip
    transformers.MixtralForCausalLM(config).to(torch.float16).save_pretrained(where)
    (where / "tokenizer.json").symlink_to(zoo.locate("reference-lm") / "tokenizer.json")
    return where


def tokens_of(session: Any) -> list[int]:
    return [each.token for each in session.engine.stream([*range(3, 153)], limit=6)]


@pytest.fixture(scope="module")
def tokens(folder: Path) -> list[int]:
    with open_within(folder, None, threads=1, context=300) as session:
        assert session.experts is None
        return tokens_of(session)


def test_tokens_are_the_same_and_the_buffer_is_kept(folder: Path, tokens: list[int]) -> None:
    for memory in (4_000_000, 40_000_000):
        with open_within(folder, None, expert_memory=memory, threads=1, context=300) as session:
            assert session.experts is not None
            assert session.expert_plan is not None
            assert tokens_of(session) == tokens
            assert session.experts.memory == session.expert_plan.experts == memory
            assert session.experts.stats.bytes_read > 0


def test_a_limit_on_all_chooses_it_for_a_mixture_and_is_kept(
    folder: Path, tokens: list[int], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _WRITE, str(folder), "140MB", str(tmp_path / "said")]
    run = run_command(command, timeout=200)
    got, stats = json.loads((tmp_path / "said").read_text())
    assert got == tokens
    assert stats["bytes_read"] > 0
    assert run.peak_bytes <= 140e6


def test_the_command_says_what_became_of_the_experts(folder: Path) -> None:
    command = [sys.executable, "-m", "ondevice", "run", str(folder), "--prompt", "The file", "--limit", "3"]
    command += ["--expert-memory", "20MB", "--context", "64"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "experts, which are read when they are called" in told.stderr
    assert "were there" in told.stderr
    document = json.loads(
        subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    )
    found = document["experts"]
    assert found["hits"] + found["late"] + found["misses"] > 0
    assert set(found) == {"hits", "late", "misses", "bytes_read", "bytes_wasted", "stall_seconds"}


def test_serve_calls_experts_too(folder: Path, tokens: list[int]) -> None:
    made: Any = application(folder, threads=1, context=300, expert_memory="10MB")
    engine = made.served.model.engine
    assert [each.token for each in engine.stream([*range(3, 153)], limit=6)] == tokens


def test_what_cannot_be_is_refused_and_what_would_do_is_said(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"2 that a token uses in one layer; give 1\d{6} bytes or more"):
        open_within(folder, None, expert_memory="1MB", context=64)
    with pytest.raises(BadInput, match=r"dense.*--memory streams"):
        open_within("reference-lm", None, expert_memory="1GB", context=64)
    with pytest.raises(BudgetNotMet, match=r"for experts make .* more than 60 MB"):
        open_within(folder, "60MB", expert_memory="50MB", context=64)
    with pytest.raises(BadInput, match="expert memory"):
        open_within(folder, None, expert_memory="much")
