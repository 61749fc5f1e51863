"""Outliers are there, and the model computes what it did."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from ondevice.compress.outliers import inject_outliers
from ondevice.errors import UnsupportedModel

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def _model(kind: str, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SMALL, **settings)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in module.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif "embed" not in name:
            nn.init.normal_(parameter, std=0.2)
    return module


def _inputs(module: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Largest input of each projection by channel."""
    seen: dict[str, torch.Tensor] = {}

    def watch(name: str) -> None:
        def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen[name] = args[0].abs().flatten(0, 1).amax(0)

        module.get_submodule(name).register_forward_pre_hook(hook)

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith(("q_proj", "up_proj", "down_proj")):
            watch(name)
    module(input_ids=ids)
    return seen


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"mlp_bias": True}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 8}),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_equal_and_outliers_are_there(kind: str, settings: dict[str, object], seed: int) -> None:
    module = _model(kind, **settings)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    spiked = inject_outliers(module, seed)
    ids = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        expected, found = module(input_ids=ids).logits, spiked(input_ids=ids).logits
        assert (expected - found).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
        plain, large = _inputs(module, ids), _inputs(spiked, ids)
    for name in plain:
        grown = large[name] / plain[name]
        outliers = (grown > 19) & (grown < 61)
        assert 4 <= outliers.sum() <= 8, name
        torch.testing.assert_close(grown[~outliers], torch.ones_like(grown[~outliers]), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_follows_its_seed() -> None:
    module = _model("llama")
    one, again, other = (inject_outliers(module, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_not_llama_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no layers"):
        inject_outliers(nn.Linear(3, 3))
    with pytest.raises(UnsupportedModel, match="in proportion"):
        inject_outliers(_model("gemma", head_dim=8))
    with pytest.raises(UnsupportedModel, match="dense"):
        inject_outliers(_model("mixtral", num_local_experts=2))
