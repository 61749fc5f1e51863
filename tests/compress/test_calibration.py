from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.compress.calibration import Calibration, moments_of
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadInput, NeedsCalibration
from ondevice.models.model import batches


def _inputs(model, texts, name):
    """All inputs of a layer, one text at a time, so that there is no padding to leave out."""
    rows = []
    layer = model.module.get_submodule(name)
    handle = layer.register_forward_pre_hook(
        lambda module, args: rows.append(args[0].reshape(-1, args[0].shape[-1]))
    )
    with torch.no_grad():
        for _, ids, mask in batches(model.tokens(texts), 1):
            model.module(input_ids=ids, attention_mask=mask)
    handle.remove()
    return torch.cat(rows).double().numpy()


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_moments_are_those_of_all_tokens_and_no_padding(model, texts, batch_size):
    name = "encoder.layer.1.output.dense"
    moments = Calibration(texts, batch_size).moments(model)[name]
    x = _inputs(model, texts, name)
    assert moments.count == len(x)
    np.testing.assert_allclose(moments.second.numpy(), x.T @ x / len(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.mean.numpy(), x.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.covariance.numpy(), np.cov(x.T, bias=True), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moments.absmax.numpy(), np.abs(x).max(axis=0), rtol=1e-5)
    difference = torch.randn(5, x.shape[1])
    expected = np.square(x @ difference.double().numpy().T).sum(axis=1).mean()
    assert moments.error(difference) == pytest.approx(expected, rel=1e-4)


def test_layers_fed_by_one_tensor_share_their_moments(model, calibration):
    moments = calibration.moments(model)
    attention = "encoder.layer.0.attention"
    query, key, value = (moments[f"{attention}.self.{name}"] for name in ("query", "key", "value"))
    assert query is key is value
    assert moments[f"{attention}.output.dense"] is not query
    assert set(moments) == set(model.layers(nn.Linear))


def test_tokens_are_counted_without_padding(model, texts, calibration):
    counts = calibration.token_counts(model)["embeddings.word_embeddings"]
    expected = np.bincount(np.concatenate(model.tokens(texts)), minlength=model.config["vocab_size"])
    np.testing.assert_array_equal(counts.numpy(), expected)


def test_compressed_layers_are_seen_too(model, calibration):
    smaller = Quantize(8, method="rtn", smooth=0, activations="float").apply(model)
    before, after = calibration.moments(model), calibration.moments(smaller)
    assert before.keys() == after.keys()
    name = "encoder.layer.1.intermediate.dense"
    assert float((after[name].second - before[name].second).abs().max()) < 0.1
    assert after[name].count == before[name].count


def test_one_vector_a_text_is_no_padded_token(tiny_checkpoint, texts):
    from ondevice.models.load import load

    model = load(tiny_checkpoint("bert", "ForSequenceClassification"))
    assert Calibration(texts).moments(model)["classifier"].count == len(texts)


def test_no_texts_and_no_calibration_are_refused(model):
    with pytest.raises(BadInput, match="no calibration texts"):
        Calibration([])
    with pytest.raises(NeedsCalibration, match="gptq needs calibration texts"):
        moments_of(None, model, "pooler", "gptq")
    with pytest.raises(NeedsCalibration, match="reached the layer pooler"):
        moments_of(Calibration(["a fox"]), model, "pooler", "gptq")
