from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ondevice.errors import UnsupportedModel
from ondevice.runtime.rotary import frequencies, tables

ROPES: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 5e5},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
        "original_max_position_embeddings": 512,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "rope_theta": 1e4},
    {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 256, "rope_theta": 1e6,
        "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.5,
    },
]  # fmt: skip


@pytest.mark.parametrize("rope", ROPES, ids=lambda rope: str(rope["rope_type"]))
@pytest.mark.parametrize("size", [64, 128])
def test_tables_match_transformers(rope: dict[str, Any], size: int) -> None:
    config = LlamaConfig(
        hidden_size=4 * size, num_attention_heads=4, max_position_embeddings=2048, rope_parameters=dict(rope)
    )
    cosine, sine = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(700)[None])
    got = tables(config.to_dict(), size, 700)
    for mine, theirs in zip(got, (cosine, sine)):
        np.testing.assert_allclose(mine, theirs[0, :, : size // 2].numpy(), atol=2e-4)


def test_old_configurations_mean_the_same() -> None:
    new = tables({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}}, 32, 9)
    old = tables({"rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}}, 32, 9)
    np.testing.assert_array_equal(new, old)


def test_a_part_of_the_head_can_turn() -> None:
    assert tables({"partial_rotary_factor": 0.25}, 64, 5)[0].shape == (5, 8)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'longrope' is not supported"):
        tables({"rope_parameters": {"rope_type": "longrope"}}, 64, 5)


def test_factors_of_each_pair_say_what_a_rule_says() -> None:
    """GGUF files of Llama 3 hold what its rule gives, and not the rule."""
    plain, ruled = (frequencies({"rope_parameters": rope}, 64)[0] for rope in (ROPES[0], ROPES[2]))
    rope = {"rope_type": "factors", "rope_theta": 5e5, "factors": plain / ruled}
    np.testing.assert_allclose(frequencies({"rope_parameters": rope}, 64)[0], ruled)
