"""simulate: counts come from the configuration, and what cannot be simulated is refused."""

from __future__ import annotations

import json

import pytest

from ondevice.errors import BadInput, DeviceUnknown
from ondevice.verbs.simulate import simulate

SEVENTY = {
    "model_type": "llama", "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000,
}  # fmt: skip


def test_a_model_of_seventy_billion_weights_is_near_the_published_figure(tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SEVENTY))
    made = simulate("cambricon-l", tmp_path, context=1000)
    assert 1 / made.time.seconds == pytest.approx(3.44, rel=0.35)
    assert made.to_json()["kind"] == "modelled"


def test_a_longer_context_is_slower_and_a_larger_array_faster() -> None:
    times = [
        simulate("cambricon-m", "llama-2-7b", context=context).time.seconds for context in (100, 1000, 4000)
    ]
    assert times == sorted(times)
    assert (
        simulate("cambricon-l", "llama-2-7b").time.seconds
        < simulate("cambricon-m", "llama-2-7b").time.seconds
    )


def test_what_is_not_there_or_does_not_fit(tmp_path) -> None:
    with pytest.raises(BadInput, match="no model 'abacus'"):
        simulate("cambricon-s", "abacus")
    with pytest.raises(DeviceUnknown, match="no flash platform"):
        simulate("raspberry-pi-5", "llama-2-7b")
    with pytest.raises(BadInput, match="larger than the matrix"):
        simulate("cambricon-l", "smollm2-135m")
    with pytest.raises(BadInput, match="shorten the context"):
        simulate("cambricon-l", "llama-2-7b", context=20000)
    with pytest.raises(BadInput, match="above zero"):
        simulate("cambricon-l", "llama-2-7b", context=0)
    (tmp_path / "config.json").write_text('{"hidden_size": 64}')
    with pytest.raises(BadInput, match="no configuration"):
        simulate("cambricon-l", tmp_path)
