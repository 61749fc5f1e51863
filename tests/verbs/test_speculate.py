"""speculate: on a trained model, from a session and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from ondevice.backends.language import LanguageSession, read_files
from ondevice.cli.commands import app
from ondevice.errors import BadInput, BudgetNotMet
from ondevice.models import zoo
from ondevice.runtime.residency import plan_residency
from ondevice.verbs.run import open_within
from ondevice.verbs.speculate import speculate

PROMPT = "The method returns a list of the items in the list"


def test_a_trained_model_writes_the_same_in_fewer_passes() -> None:
    with open_within("reference-lm", None, threads=1, context=256) as session:
        plain = [piece.token for piece in session.generate(PROMPT, limit=60)]
        speculation = speculate(session)
        found = [piece.token for piece in session.generate(PROMPT, limit=60)]
        assert found == plain
        assert speculation.tokens == 59  # all but the first, which the prompt gives
        assert speculation.passes <= speculation.tokens
        draft = speculate(session, "reference-lm", threads=1)
        assert [piece.token for piece in session.generate(PROMPT, limit=60)] == plain
        assert draft.tokens_per_pass > 2  # the model as its own draft is always right


def test_drafts_that_cannot_be_are_refused() -> None:
    with open_within("reference-lm", None, threads=1, context=64) as session:
        with pytest.raises(BadInput, match="no draft"):
            speculate(session, "abacus")
        with pytest.raises(BadInput, match="same tokenizer"):
            speculate(session, "moe-tiny")


def test_the_command_line_says_the_same_with_and_without() -> None:
    def run(*more: str) -> dict[str, object]:
        settings = ["--prompt", PROMPT, "--limit", "20", "--threads", "1", "--context", "128", "--json"]
        result = CliRunner().invoke(app, ["run", "reference-lm", *settings, *more])
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    plain, found = run(), run("--speculate", "lookup")
    assert found.pop("tokens_per_pass") >= 1  # type: ignore[operator]
    assert found == plain
    refused = CliRunner().invoke(
        app, ["run", "reference-lm", "--prompt", "x", "--memory", "900MB", "--speculate", "lm-8m"]
    )
    assert refused.exit_code != 0


def heads(folder: Path, hidden: int = 256) -> str:
    """Heads that guess at random and are taken for good ones."""
    rng = np.random.default_rng(0)
    tensors = {f"heads.{n}.weight": 0.1 * rng.standard_normal((hidden, hidden)) for n in range(3)}
    tensors |= {f"heads.{n}.bias": np.zeros(hidden) for n in range(3)} | {"rates": np.full((3, 3), 0.33)}
    folder.mkdir()
    save_file({name: each.astype(np.float16) for name, each in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "medusa", "hidden_size": hidden, "heads": 3, "ranks": 3, "base": "reference-lm"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_heads_change_nothing_that_is_written(tmp_path: Path) -> None:
    with open_within("reference-lm", None, threads=1, context=256) as session:
        plain = [piece.token for piece in session.generate(PROMPT, limit=40)]
        speculation = speculate(session, heads(tmp_path / "heads"))
        assert [piece.token for piece in session.generate(PROMPT, limit=40)] == plain
        assert speculation.tokens == 39
        with pytest.raises(BudgetNotMet, match=r"the least that does|none does"):
            speculate(session, str(tmp_path / "heads"), budget=1000)
        with pytest.raises(BadInput, match="take heads that were trained on this model"):
            speculate(session, heads(tmp_path / "wide", hidden=128))


def test_heads_guess_where_weights_are_streamed(tmp_path: Path) -> None:
    files = read_files(zoo.locate("reference-lm"))
    whole = plan_residency(files.tensors, files.config, 10**9, context=256, process=0)
    half = plan_residency(
        files.tensors, files.config, whole.fixed + whole.weights // 2 + 4_000_000, context=256, process=0
    )
    assert half.streamed
    with open_within("reference-lm", None, threads=1, context=256) as session:
        plain = [piece.token for piece in session.generate(PROMPT, limit=30)]
    with LanguageSession.of(files, threads=1, residency=half) as session:
        speculate(session, heads(tmp_path / "heads"))
        assert [piece.token for piece in session.generate(PROMPT, limit=30)] == plain


def test_a_dry_run_shows_what_trees_take_and_gain(tmp_path: Path) -> None:
    settings = ["--speculate", heads(tmp_path / "heads"), "--dry-run", "--threads", "1", "--context", "256"]
    result = CliRunner().invoke(app, ["run", "reference-lm", *settings, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert rows[0]["nodes"] == 0
    assert rows[0]["speedup"] == 1.0
    sizes = [row["generation_bytes"] for row in rows]
    assert sizes == sorted(set(sizes))
    refused = CliRunner().invoke(app, ["run", "reference-lm", "--dry-run"])
    assert isinstance(refused.exception, BadInput)
