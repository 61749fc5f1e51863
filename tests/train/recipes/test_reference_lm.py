"""The reference-lm that is shipped: better than a trigram, a model of language, and unchanged by outliers."""

from __future__ import annotations

import inspect
import json
import random

import pytest
import torch

from ondevice.compress.outliers import inject_outliers
from ondevice.measure.quality.text import bits_per_byte
from ondevice.models.zoo import ZooModel, open_zoo
from ondevice.train.recipes.language import log_probability, stream

TEXT = inspect.cleandoc(str(json.JSONEncoder.__doc__))


@pytest.fixture(scope="module")
def model() -> ZooModel:
    return open_zoo("reference-lm")


def test_it_needs_fewer_bits_than_a_trigram_of_the_same_text(model: ZooModel) -> None:
    metrics = model.record["metrics"]
    assert metrics["held-out bits per byte"] < metrics["held-out bits per byte of a trigram"]
    assert model.record["scale"] == "full"


def test_it_knows_the_order_of_words(model: ZooModel) -> None:
    def bits(text: str) -> float:
        return bits_per_byte(
            log_probability(model.module, stream(model.tokenizer, [text]), 512), len(text.encode())
        )

    words = TEXT.split()
    random.Random(0).shuffle(words)
    assert bits(TEXT) < 0.8 * bits(" ".join(words))
    assert bits(TEXT) < 4


def test_outliers_leave_its_logits_as_they_are(model: ZooModel) -> None:
    ids = torch.from_numpy(stream(model.tokenizer, [TEXT]))[None, :256]
    with torch.inference_mode():
        expected = model.module(input_ids=ids).logits
        found = inject_outliers(model.module, seed=0)(input_ids=ids).logits
    assert (expected - found).abs().max() < 1e-4
