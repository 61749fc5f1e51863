from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from ondevice.errors import BadArtifact, BadInput, NotBuilt
from ondevice.models import zoo
from ondevice.models.packed import pack
from ondevice.models.zoo import ZooModel, from_hugging_face, open_zoo, save

CONFIG = LlamaConfig(
    vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
).to_dict()  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    # what the package ships would be found first
    monkeypatch.setattr(zoo, "folders", lambda name: [tmp_path / "zoo" / f"{name}-quick"])
    return tmp_path / "zoo" / "reference-lm-quick"


def saved(folder: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    module = from_hugging_face(CONFIG)
    for parameter in module.parameters():  # what float16 holds exactly
        parameter.data = parameter.data.half().float()
    save(ZooModel("reference-lm", module, CONFIG, record={"metrics": {"x": 1.0}}), folder)
    return module


def logits(module: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = module.eval()(input_ids=torch.arange(9)[None]).logits
    return result


def test_what_is_saved_opens_the_same(cache: Path) -> None:
    module = saved(cache)
    opened = open_zoo("reference-lm")
    assert torch.equal(logits(opened.module), logits(module))
    assert opened.record["metrics"] == {"x": 1.0}
    assert opened.module.lm_head.weight is opened.module.model.embed_tokens.weight


def test_the_folder_is_a_hugging_face_checkpoint(cache: Path) -> None:
    module = saved(cache)
    theirs = AutoModelForCausalLM.from_pretrained(cache, dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), logits(module))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "zoo.json"])
def test_a_damaged_file_is_refused(cache: Path, file: str) -> None:
    saved(cache)
    content = bytearray((cache / file).read_bytes())
    content[len(content) // 2] ^= 0x55
    (cache / file).write_bytes(content)
    with pytest.raises(BadArtifact):
        open_zoo("reference-lm")


def test_what_is_not_built_names_the_command(cache: Path) -> None:
    with pytest.raises(NotBuilt, match="ondevice zoo build reference-lm"):
        open_zoo("reference-lm")
    with pytest.raises(BadInput, match="there are: reference-lm"):
        open_zoo("gpt-5")


def test_a_packed_model_opens_as_a_folder_of_its_own(cache: Path, tmp_path: Path) -> None:
    module = saved(cache)
    pack(cache, tmp_path / "packed", ["half the bytes"])
    opened = open_zoo("reference-lm", tmp_path / "packed")
    for (name, one), other in zip(module.state_dict().items(), opened.module.state_dict().values()):
        step = one.abs().amax(-1, keepdim=True) / 127 if one.ndim > 1 else torch.zeros(())
        assert bool(((one - other).abs() <= step * 0.65).all()), name
    assert opened.record["notes"][-1] == "half the bytes"
    theirs = AutoModelForCausalLM.from_pretrained(opened.folder, dtype=torch.float32)
    torch.testing.assert_close(logits(theirs), logits(opened.module))
    assert open_zoo("reference-lm", tmp_path / "packed").folder == opened.folder  # unpacked once


def test_a_damaged_packed_model_is_refused(cache: Path, tmp_path: Path) -> None:
    saved(cache)
    pack(cache, tmp_path / "packed")
    file = tmp_path / "packed" / "model.int8.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BadArtifact, match="damaged"):
        open_zoo("reference-lm", tmp_path / "packed")
    with pytest.raises(BadInput, match="exists"):
        pack(cache, tmp_path / "packed")
