"""speculate: on a trained model, from a session and from the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ondevice.cli.commands import app
from ondevice.errors import BadInput
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
