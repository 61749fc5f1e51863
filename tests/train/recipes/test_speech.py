"""The shipped networks that hear: what their records say holds on speech made afresh."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from ondevice.data.speech import commands, keywords, speakers
from ondevice.data.speech.features import log_mel
from ondevice.measure.quality.speech import equal_error_rate
from ondevice.models.zoo import open_zoo
from ondevice.train.recipes import command_asr, keyword_dscnn
from ondevice.train.recipes.speaker_encoder import margin_loss


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))


def test_command_asr_writes_down_unseen_voices():
    model = open_zoo("command-asr")
    assert model.record["scale"] == "full"
    assert model.record["metrics"]["WER % exit 6, 20 dB"] < 8
    fresh = commands.make("test", 24, seed=77, snr=(20, 20))
    rates = command_asr.evaluate(model.module, model.tokenizer, fresh, "now")
    assert rates["WER % exit 6, now"] < 15  # about a hundred words: one is a point
    assert rates["WER % exit 1, now"] > rates["WER % exit 6, now"]


def test_keyword_dscnn_knows_unseen_voices():
    model = open_zoo("keyword-dscnn")
    metrics = model.record["metrics"]
    assert metrics["accuracy %"] > metrics["accuracy % of frozen random features"] + 30
    fresh = keywords.make("test", 48, seed=77)
    with torch.inference_mode():
        said = model.module(keyword_dscnn.features(fresh)).argmax(1)
    assert np.mean(said.numpy() == fresh["labels"]) > 0.8


def test_speaker_encoder_tells_unseen_voices_apart():
    model = open_zoo("speaker-encoder")
    assert model.record["metrics"]["EER %"] < model.record["metrics"]["EER % of mean log-mel"] / 3
    fresh = speakers.make("test", 24, seed=77, each=3)
    with torch.inference_mode():
        heard = [torch.from_numpy(log_mel(audio, model.config["bands"]))[None] for audio in rows(fresh)]
        vectors = torch.cat([model.module(features) for features in heard])
    first, second = np.triu_indices(24, 1)
    scores = (vectors @ vectors.T).numpy()[first, second]
    assert equal_error_rate(scores, fresh["labels"][first] == fresh["labels"][second])[0] < 0.2


def rows(samples):
    audio = samples.ragged("audio")
    return [audio[row] for row in range(len(audio))]


def test_the_margin_makes_the_right_identity_harder():
    torch.manual_seed(0)
    cosine, labels = torch.rand(6, 5) * 1.8 - 0.9, torch.tensor([0, 1, 2, 3, 4, 0])
    logits = 30 * cosine.double().numpy()
    for row, label in enumerate(labels.tolist()):
        logits[row, label] = 30 * np.cos(np.arccos(float(cosine[row, label])) + 0.2)
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = np.mean(
        [np.log(np.exp(line).sum()) - line[label] for line, label in zip(shifted, labels, strict=True)]
    )
    assert margin_loss(cosine, labels).item() == pytest.approx(expected, rel=1e-4)
    assert margin_loss(cosine, labels) > functional.cross_entropy(30 * cosine, labels)
