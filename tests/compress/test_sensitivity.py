import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.sensitivity import damages
from ondevice.errors import BadInput
from ondevice.models.load import load


@pytest.fixture
def model(tiny_checkpoint):
    return load(tiny_checkpoint("bert"))


def changed(model, name, difference):
    """The model with one weight moved, by plain torch."""
    layer = model.module.get_submodule(name)
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, layer.out_features)
        new.bias = layer.bias  # None where there is none
    else:
        new = nn.Embedding(*layer.weight.shape)
    new.weight = nn.Parameter(layer.weight + difference, requires_grad=False)
    return model.with_modules({name: new})


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings",
        "encoder.layer.0.attention.self.value",
        "encoder.layer.0.intermediate.dense",
        "encoder.layer.1.output.dense",
    ],
)
def test_the_damage_is_the_loss_that_a_small_change_really_makes(model, sentences, name):
    """Against the loss itself: the expectation over projections is exact to second order in the change."""
    generator = torch.Generator().manual_seed(1)
    weight = model.module.get_submodule(name).weight
    difference = torch.randn(weight.shape, generator=generator) * weight.std() * 2e-3
    expected = damages(model, sentences, {name: {"x": difference}}, {}, projections=400)[name]["x"]
    original, moved = model.predict(sentences), changed(model, name, difference).predict(sentences)
    loss = float(np.mean(0.5 * ((moved.astype(float) - original) ** 2).sum(axis=1)))
    assert expected == pytest.approx(loss, rel=0.25)


def test_a_mean_that_the_bias_takes_up_costs_nothing(model, sentences):
    name = "encoder.layer.0.intermediate.dense"
    mean = Calibration(sentences).moments(model)[name].mean.float()
    layer = model.module.get_submodule(name)
    difference = torch.zeros_like(layer.weight)
    difference[:, 0] = 0.01
    with_mean = damages(model, sentences, {name: {"x": difference}}, {})[name]["x"]
    without = damages(model, sentences, {name: {"x": difference}}, {name: mean})[name]["x"]
    assert without < with_mean


def test_classification_damage_is_the_divergence(tiny_checkpoint, sentences):
    model = load(tiny_checkpoint("bert", "ForSequenceClassification"))
    name = next(name for name in model.layers(nn.Linear) if name.endswith("layer.1.output.dense"))
    weight = model.module.get_submodule(name).weight
    difference = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * weight.std() * 1e-2
    expected = damages(model, sentences, {name: {"x": difference}}, {}, projections=400)[name]["x"]
    before = torch.from_numpy(model.predict(sentences)).double().log_softmax(-1)
    after = torch.from_numpy(changed(model, name, difference).predict(sentences)).double().log_softmax(-1)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    assert expected == pytest.approx(divergence, rel=0.3)


def test_no_texts_is_an_error(model):
    with pytest.raises(BadInput, match="no texts"):
        damages(model, [], {}, {})


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens", "model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj", "lm_head"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_of_a_language_model_it_is_the_divergence_of_the_next_token(tiny_decoder, sentences, name, tied):
    if tied and name == "lm_head":
        return  # has no weight of its own
    model = load(tiny_decoder("llama", tie_word_embeddings=tied))
    weight = model.module.get_submodule(name).weight
    difference = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * weight.std() * 5e-3
    expected = damages(model, sentences, {name: {"x": difference}}, {}, projections=100)[name]["x"]
    moved = changed(model, name, difference)
    losses = []
    for ids in model.tokens(sentences):
        row = torch.tensor([ids])
        before, after = (
            each.outputs(row, torch.ones_like(row))[0].double().log_softmax(-1) for each in (model, moved)
        )
        losses.append((before.exp() * (before - after)).sum(dim=1))
    assert expected == pytest.approx(float(torch.cat(losses).mean()), rel=0.25)
