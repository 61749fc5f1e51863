"""What the language models' recipes share, on models and texts of a few kilobytes."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.models.zoo import from_hugging_face
from ondevice.train.recipes.language import (
    END,
    begin_from_pairs,
    held_out,
    learn,
    learn_tokenizer,
    log_probability,
    stream,
)
from ondevice.train.recipes.reference_lm import configuration

TEXTS = [
    f"The number {number} comes before {number + 1}, and the café is {'open' * (number % 3)}."
    for number in range(300)
]


def _module(vocabulary: int = 300) -> nn.Module:
    torch.manual_seed(0)
    small = {"vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64}
    return from_hugging_face(configuration(2) | small)


class Uniform(nn.Module):
    """Every token as likely as any other."""

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 7))


def test_a_tokenizer_gives_texts_back_and_is_the_same_again() -> None:
    tokenizer = learn_tokenizer(TEXTS, 280)
    assert tokenizer.to_str() == learn_tokenizer(TEXTS, 280).to_str()
    assert tokenizer.get_vocab_size() == 280
    ids = stream(tokenizer, TEXTS[:5])
    end = tokenizer.token_to_id(END)
    assert ids[0] == ids[-1] == end
    assert (ids == end).sum() == 6
    assert tokenizer.decode(ids.tolist()) == "".join(TEXTS[:5])
    with pytest.raises(BadInput, match="more text"):
        learn_tokenizer(["short"], 4096)


@pytest.mark.parametrize("length", [3, 4, 8, 9, 11, 12, 13, 50])
def test_every_token_from_the_third_on_is_scored_once(length: int) -> None:
    found = log_probability(Uniform(), np.zeros(length, np.int64), context=8)
    assert found == pytest.approx(-(length - 2) * math.log(7))


def test_scores_are_those_of_one_pass_where_it_fits() -> None:
    module = _module().eval()
    ids = np.random.default_rng(0).integers(300, size=40)
    with torch.inference_mode():
        loss = nn.functional.cross_entropy(
            module(input_ids=torch.from_numpy(ids)[None]).logits[0, 1:-1],
            torch.from_numpy(ids[2:]),
            reduction="sum",
        )
    assert log_probability(module, ids, 64) == pytest.approx(-float(loss), rel=1e-4)


def test_training_lowers_the_held_out_surprise_and_follows_its_seed() -> None:
    tokenizer = learn_tokenizer(TEXTS, 280)
    ids = stream(tokenizer, TEXTS[:250])

    def taught(seed: int) -> nn.Module:
        module = _module()
        begin_from_pairs(module.get_submodule("model.embed_tokens"), ids)
        learn(module, ids, context=32, batch=4, steps=25, seed=seed)
        return module

    torch.manual_seed(0)
    before = held_out(_module().eval(), tokenizer, ids, TEXTS[250:], 32)
    one, again, other = taught(1), taught(1), taught(2)
    after = held_out(one, tokenizer, ids, TEXTS[250:], 32)
    assert after["held-out bits per byte"] < 0.6 * before["held-out bits per byte"]
    assert after["held-out bits per byte of a trigram"] == before["held-out bits per byte of a trigram"]
    weights = [module.get_parameter("model.embed_tokens.weight") for module in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_embeddings_begin_with_what_stands_next_to_what() -> None:
    rng = np.random.default_rng(0)
    follows = np.roll(np.arange(20), 7)
    ids = np.concatenate([[first, follows[first]] for first in rng.integers(20, size=2000)])
    embedding = nn.Embedding(20, 40)
    nn.init.normal_(embedding.weight, std=0.02)
    begin_from_pairs(embedding, ids)
    right, left = embedding.weight.detach().split(20, dim=1)
    likely = (right @ left.T).argmax(1).numpy()
    assert (likely == follows).mean() > 0.7


def test_too_little_text_is_refused() -> None:
    with pytest.raises(BadInput, match="less than one batch"):
        learn(_module(), np.zeros(50, np.int64), context=32, batch=4, steps=1, seed=0)
