"""Decoders are loaded as transformers loads them; what is refused says so."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.layers.tied import TiedLinear
from ondevice.models.load import load


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("mistral", {"sliding_window": 7}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {}),
        ("mixtral", {"num_local_experts": 4}),
        ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}),
        ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    ],
)
def test_logits_are_those_of_transformers(tiny_decoder, family, settings):
    folder = tiny_decoder(family, **settings)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = load(folder)
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 25:] = 0
    with torch.inference_mode():
        ours, expected = model.outputs(ids, mask), theirs(input_ids=ids, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(ours[real], expected[real], rtol=1e-5, atol=1e-5)
    tied = settings.get("tie_word_embeddings", False)
    assert isinstance(model.module.lm_head, TiedLinear) is tied


def test_the_task_says_how_a_text_ends_and_how_a_chat_is_written(tiny_decoder):
    task = load(tiny_decoder("llama")).task
    assert (task.kind, task.max_length, task.ends) == ("language", 96, (1,))
    assert "messages" in task.template
    assert task.special_tokens["bos_token"] == "<s>"
    assert type(task).from_json(json.loads(json.dumps(task.to_json()))) == task


def test_names_of_the_zoo():
    model = load("reference-lm")
    assert (model.task.kind, model.task.max_length, model.config["vocab_size"]) == ("language", 512, 4096)
    assert model.source.name == "reference-lm"
    experts = load("moe-tiny").layers(torch.nn.Linear, "*.experts.15.*")
    assert len(experts) == 4 * 3  # layers, and the gate, up and down of each


@pytest.mark.parametrize("family", ["gemma", "gpt2"])
def test_other_families_are_refused(tmp_path, family):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 320}))
    with pytest.raises(UnsupportedModel, match=family):
        load(tmp_path)


def test_a_missing_head_is_refused(tiny_decoder):
    folder = tiny_decoder("llama", seed=3)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        tensors.pop("lm_head.weight", None)
        save_file(tensors, path)
    with pytest.raises(BadInput, match=r"lm_head\.weight"):
        load(folder)


def test_a_language_model_has_no_single_answer(tiny_decoder):
    with pytest.raises(BadInput, match="outputs"):
        load(tiny_decoder("llama")).predict(["a text"])
