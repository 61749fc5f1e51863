"""A limit on memory is kept by the whole process, and one that cannot be kept is refused before anything is loaded."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import transformers

from ondevice.errors import BadInput, BudgetNotMet
from ondevice.measure.memory import run_command
from ondevice.models import zoo
from ondevice.runtime.budget import resident_bytes
from ondevice.verbs.run import open_within, prompt_cache

# Fills the whole context that the limit allows, and says how long it is.
_FILL = """
import sys
from ondevice.verbs.run import open_within, prompt_cache
with open_within(sys.argv[1], sys.argv[2], threads=2, cache=sys.argv[4]) as session:
    context = session.engine.decoder.context
    count = sum(1 for _ in session.engine.stream([7] * (context - 4), limit=100))
    open(sys.argv[3], "w").write(f"{context} {count}")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with large caches and a context that no small limit holds."""
    where = tmp_path_factory.mktemp("models") / "wide"
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=16,
        num_key_value_heads=16, head_dim=64, max_position_embeddings=100_000,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.float16).save_pretrained(where)
    (where / "tokenizer.json").symlink_to(zoo.locate("reference-lm") / "tokenizer.json")
    return where


def test_every_limit_is_kept(folder: Path, tmp_path: Path) -> None:
    contexts = []
    for limit, cache in ((118, "float16"), (130, "float16"), (118, "int8")):
        said = tmp_path / "said"
        command = [sys.executable, "-c", _FILL, str(folder), f"{limit}MB", str(said), cache]
        run = run_command(command, timeout=100)
        context, count = map(int, said.read_text().split())
        assert count == 4
        assert run.peak_bytes <= limit * 1e6
        contexts.append(context)
    assert (
        contexts[1] >= contexts[0] + 12e6 / (4 * 16 * 64 * 2 * 2) - 2 * 64
    )  # of the memory that is added, in pages
    assert contexts[2] >= 1.8 * contexts[0]  # of half the bits


def test_what_does_not_fit_is_refused_with_what_would(folder: Path) -> None:
    with pytest.raises(BudgetNotMet, match="50 MB of memory do not hold") as refused:
        open_within(folder, "50MB")
    assert "no context fits" in str(refused.value)
    limit = resident_bytes() + 400_000_000  # this process is large itself: torch is loaded
    with pytest.raises(BudgetNotMet, match=r"context of \d+ tokens would fit") as refused:
        open_within(folder, limit, context=100_000)
    assert "--cache" not in str(refused.value)  # none holds that
    found = re.search(r"a context of (\d+) tokens would fit", str(refused.value))
    assert found
    with open_within(folder, limit, context=int(found[1]) - 64 * 64) as session:
        assert session.engine.decoder.context == int(found[1]) - 64 * 64
    for fewer, dtype in ((1.5, "int8"), (3, "int4")):  # float16 does not hold it, this one does
        with pytest.raises(BudgetNotMet, match=f"--cache {dtype}") as refused:
            open_within(folder, limit, context=int(fewer * int(found[1])))
        with open_within(folder, limit, context=int(fewer * int(found[1])), cache=dtype) as session:
            assert session.engine.decoder.cache.layers[0].dtype == dtype
    with pytest.raises(BadInput, match="not 'int2'"):
        open_within(folder, limit, cache="int2")


def test_a_prompt_cache_on_disk_changes_no_token(tmp_path: Path) -> None:
    path, prompt = tmp_path / "cache", "The file is " * 20
    texts = []
    for _ in range(2):
        with (
            open_within("reference-lm", None, threads=1, keep=2) as session,
            prompt_cache(session, "reference-lm", path),
        ):
            texts.append("".join(piece.text for piece in session.generate(prompt, limit=20)))
            reused = session.engine.reused
    assert texts[0] == texts[1]
    assert reused == len(session.tokenizer.encode(prompt).ids) - 1
    with (
        open_within("lm-8m", None, threads=1, keep=2) as session,
        pytest.warns(UserWarning, match="another model"),
        prompt_cache(session, "lm-8m", path),
    ):
        next(session.generate(prompt, limit=20))
