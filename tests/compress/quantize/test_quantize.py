from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.quantize import Quantize, input_scale, quantize_linear
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.store import stored_bytes


def _cosine(a, b):
    return float((a * b).sum(axis=1).mean())


def test_every_layer_that_shrinks_is_replaced_and_the_model_not_edited(model, calibration, texts):
    before = model.predict(texts)
    weights = {name: value.clone() for name, value in model.module.state_dict().items()}
    small = Quantize(8).apply(model, calibration)
    assert set(small.layers(QuantizedLinear)) == set(model.layers(nn.Linear))
    # two rows of token types would grow to a panel of 16
    assert set(small.layers(QuantizedEmbedding)) == {
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
    }
    assert _cosine(before, small.predict(texts)) > 0.999
    np.testing.assert_array_equal(before, model.predict(texts))
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, weights[name])
    assert small.module.embeddings.LayerNorm.weight is model.module.embeddings.LayerNorm.weight


def test_more_bits_lose_less_and_take_more(model, calibration, texts):
    before = model.predict(texts)
    made = [Quantize(bits, activations="float").apply(model, calibration) for bits in (2, 4, 6, 8)]
    cosines = [_cosine(before, each.predict(texts)) for each in made]
    sizes = [stored_bytes(each.module) for each in made]
    assert cosines == sorted(cosines)
    assert sizes == sorted(sizes)
    assert cosines[-1] > 0.9999


def test_gptq_is_closer_than_rounding_on_texts_it_did_not_see(model, texts):
    calibration, before = Calibration(texts[::2]), model.predict(texts[1::2])
    clever, plain = (
        _cosine(
            before,
            Quantize(3, method=method, embeddings=False).apply(model, calibration).predict(texts[1::2]),
        )
        for method in ("gptq", "rtn")
    )
    assert clever > plain


def test_the_bias_takes_up_the_mean_of_the_error(model, calibration):
    name = "encoder.layer.0.output.dense"
    layer, moments = model.module.get_submodule(name), calibration.moments(model)[name]
    small = quantize_linear(layer, 2, moments=moments, activations="float")
    mean = moments.mean.float()
    torch.testing.assert_close(small(mean), layer(mean), rtol=1e-4, atol=1e-4)


def test_input_scale_evens_out_large_channels(model, calibration):
    moments = calibration.moments(model)["encoder.layer.0.output.dense"]
    scale = input_scale(moments, 0.5)
    assert float(scale.log().mean()) == pytest.approx(0, abs=1e-5)
    spread = moments.absmax / moments.absmax.mean()
    evened = moments.absmax / scale / (moments.absmax / scale).mean()
    assert float(evened.var()) < float(spread.var())
    assert input_scale(moments, 0) is None


def test_only_the_layers_that_match(model, calibration):
    small = Quantize(4, layers="*query*").apply(model, calibration)
    assert len(small.layers(QuantizedLinear)) == 2
    assert all(name.endswith("query") for name in small.layers(QuantizedLinear))
    assert not small.layers(QuantizedEmbedding)


def test_without_calibration_only_what_needs_none(model, texts):
    with pytest.raises(NeedsCalibration, match="0 does without"):
        Quantize(4, method="rtn").apply(model)
    with pytest.raises(NeedsCalibration, match="method=rtn does without"):
        Quantize(4, smooth=0).apply(model)
    small = Quantize(8, method="rtn", smooth=0).apply(model)
    assert _cosine(model.predict(texts), small.predict(texts)) > 0.99


@pytest.mark.parametrize("settings", [{"bits": 0}, {"group_size": 48}, {"smooth": 2}, {"activations": "fp8"}])
def test_bad_settings(settings):
    with pytest.raises(BadInput):
        Quantize(**settings)
