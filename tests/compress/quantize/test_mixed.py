from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.mixed import ExpertBits, allocate
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.experts import GatedExpert, unfuse
from ondevice.layers.quantized import QuantizedLinear
from ondevice.layers.store import stored_bytes
from ondevice.models.model import Model
from ondevice.models.tasks import Task

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "num_experts_per_tok": 2,
    "model_type": "mixtral", "num_local_experts": 4, "eos_token_id": 1,
}  # fmt: skip
TEXTS = [
    " ".join(f"w{(3 * number * number + step * step) % 40}" for step in range(30)) for number in range(6)
]


def _model(**more: Any) -> Model:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**(SIZES | more))
    module = unfuse(transformers.AutoModelForCausalLM.from_config(config).eval())
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(40)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Model(module, tokenizer, Task("language", max_length=64), config.to_dict())


@pytest.fixture(scope="module")
def mixture() -> Model:
    return _model()


def _loss(model: Model, texts: list[str]) -> float:
    total, count = 0.0, 0
    with torch.inference_mode():
        for window in model.windows(texts):
            ids = torch.tensor([window.ids])
            total += float(model.module(ids, labels=ids).loss) * (
                len(window.ids) - 1
            )  # as transformers has it
            count += len(window.ids) - 1
    return total / count


def _widths(model: Model) -> dict[str, int]:
    return {name: layer.bits for name, layer in model.layers(QuantizedLinear).items()}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0, 0.5))
def test_as_many_as_can_be_are_lowered_least_important_first(harms: list[float], tolerance: float) -> None:
    names = [f"e{number}" for number in range(len(harms))]
    harm = dict(zip(names, harms, strict=True))

    def loss(widths: dict[str, int]) -> float:
        return 10 + sum(harm[name] * {8: 0, 4: 0.1, 2: 1}[width] for name, width in widths.items())

    found = allocate(names, loss, tolerance)
    most = 10 * (1 + tolerance)
    assert loss(found) <= most + 1e-9
    order = sorted(names, key=lambda name: harm[name])
    widths = [found[name] for name in order]
    assert widths == sorted(widths)  # who matters less never has more bits
    for name in order:  # none more can be lowered without passing the limit
        if found[name] == 8:
            assert loss(found | {name: 4}) > most - 1e-9 or any(found[each] == 2 for each in names)
            break
    assert sum(width < 8 for width in widths) == sum(
        10 + 0.1 * sum(sorted(harms)[: count + 1]) <= most for count in range(len(names))
    )


def test_the_loss_stays_within_the_tolerance_and_bytes_fall_with_it(mixture: Model) -> None:
    calibration = Calibration(TEXTS)
    base = ExpertBits(0.0).apply(mixture, calibration)
    sizes = []
    for tolerance in (0.0, 0.002, 1.0):
        small = ExpertBits(tolerance).apply(mixture, calibration)
        assert (
            _loss(small, TEXTS) <= _loss(base, TEXTS) * (1 + tolerance) * 1.02
        )  # 8 bits are not exact either
        assert set(_widths(small)) == {
            f"{name}.{leaf}"
            for name in mixture.layers(GatedExpert)
            for leaf in ("gate_proj", "up_proj", "down_proj")
        }
        sizes.append(stored_bytes(small.module))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert set(_widths(small).values()) == {2}


def test_the_model_is_not_edited_and_what_is_no_expert_is_shared(mixture: Model) -> None:
    before = {name: value.clone() for name, value in mixture.module.state_dict().items()}
    small = ExpertBits(0.05).apply(mixture, Calibration(TEXTS))
    for name, value in mixture.module.state_dict().items():
        assert torch.equal(value, before[name])
    assert not mixture.layers(QuantizedLinear)
    name = "model.layers.0.self_attn.q_proj"
    kept, given = small.module.get_submodule(name), mixture.module.get_submodule(name)
    assert isinstance(kept, nn.Linear)
    assert kept.weight is given.weight


def test_what_it_cannot_do_without_is_said(mixture: Model) -> None:
    with pytest.raises(NeedsCalibration, match="--data"):
        ExpertBits().apply(mixture)
    with pytest.raises(BadInput, match="dense"):
        ExpertBits().apply(_model(model_type="llama"), Calibration(TEXTS))
    with pytest.raises(BadInput, match="tolerance"):
        ExpertBits(tolerance=-0.1)
