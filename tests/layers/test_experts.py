"""Experts apart give what transformers' fused ones give."""

from __future__ import annotations

import pytest
import torch
import transformers

from ondevice.layers.experts import ExpertList, apart, unfuse


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_a_model_taken_apart_computes_the_same(family):
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 5,
        "num_experts": 5, "num_experts_per_tok": 2, "shared_expert_intermediate_size": 32,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **sizes)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(0, 64, (2, 20))
    with torch.inference_mode():
        expected = module(input_ids=ids).logits
        got = unfuse(module)(input_ids=ids).logits
    assert sum(isinstance(part, ExpertList) for part in module.modules()) == 2
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_fused_tensors_are_named_by_expert():
    wide = torch.arange(24.0).reshape(2, 6, 2)
    parts = apart("a.experts.gate_up_proj", wide)
    assert sorted(parts) == [f"a.experts.{n}.{p}_proj.weight" for n in (0, 1) for p in ("gate", "up")]
    assert torch.equal(parts["a.experts.1.up_proj.weight"], wide[1, 3:])
