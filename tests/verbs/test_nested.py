"""Experts in nested bits through run: the same text however much memory, and a knob for quality."""

from __future__ import annotations

import pytest
import torch

from ondevice.artifact import Contents, write_files
from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matryoshka import Matryoshka
from ondevice.errors import BadInput
from ondevice.layers.nested import BitScores
from ondevice.layers.store import to_stored
from ondevice.models.load import load
from ondevice.verbs.run import open_within


@pytest.fixture(scope="module")
def folder(tiny_decoder, tmp_path_factory):
    source = tiny_decoder("mixtral", num_local_experts=6, num_experts_per_tok=2)
    texts = ["the quick brown fox jumps over the lazy dog " * 30] * 4
    model = Matryoshka("2..4", teach=2).apply(load(source), Calibration(texts))
    torch.manual_seed(0)
    for number in range(2):
        router = model.module.get_submodule(f"model.layers.{number}.mlp.bit_router")
        assert isinstance(router, BitScores)
        router.weight.data.normal_(0, 2.0)
    out = tmp_path_factory.mktemp("nested") / "artifact"
    out.mkdir()
    write_files(
        out, Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module))
    )
    return out


def _text(folder, **settings):
    with open_within(folder, None, threads=1, **settings) as session:
        written = "".join(piece.text for piece in session.generate("the quick", limit=12))
        return written, session.experts.stats if session.experts else None


def test_memory_for_experts_changes_no_text(folder):
    whole, nothing = _text(folder)
    called, stats = _text(folder, expert_memory="300KB")
    assert nothing is None
    assert called == whole
    assert stats.misses > 0


def test_quality_is_that_of_a_model_with_bit_routers(folder, tiny_decoder):
    few, _ = _text(folder, quality=-100.0)
    assert few == _text(folder, quality=-100.0, expert_memory="300KB")[0]
    with pytest.raises(BadInput, match="no bit routers"):
        open_within(tiny_decoder("llama"), None, threads=1, quality=1.0)


def test_too_little_memory_names_the_least(folder):
    with pytest.raises(BadInput, match=r"lowest width of one layer's experts; give \d+ bytes"):
        open_within(folder, None, threads=1, expert_memory="20KB")
