"""How rerank-tiny makes its pairs, and how it is judged beside BM25."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import BertProcessing
from torch import nn

from ondevice.models.zoo import from_hugging_face
from ondevice.train.recipes.language import learn_tokenizer
from ondevice.train.recipes.rerank_tiny import configuration, deepened, judge, pairs, score

PAIRS = [
    (f"How is item number {n} opened again?", f"One turns key {n} and pulls; there is no other way.")
    for n in range(30)
]
BASE = {
    "model_type": "bert", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2,
    "num_hidden_layers": 3, "max_position_embeddings": 128,
}  # fmt: skip


def tokenizer() -> Tokenizer:
    made: Tokenizer = learn_tokenizer([text for pair in PAIRS for text in pair], 300)
    made.post_processor = BertProcessing((made.id_to_token(1), 1), (made.id_to_token(0), 0))
    return made


class Even(nn.Module):
    """The right passage is the one that holds the most tokens of the query; token 1 ends both."""

    def forward(
        self, input_ids: torch.Tensor, token_type_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> Any:
        shared = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            row = ids[mask == 1].tolist()
            between = row.index(1)
            shared.append(len(set(row[:between]) & set(row[between + 1 :])))
        return SimpleNamespace(logits=torch.tensor(shared).float()[:, None])


def test_a_pair_is_a_first_sentence_and_what_follows() -> None:
    rest = "It goes on for a while, " * 5
    text = f"NAME\n\nOpen the file and read it.  {rest}\n\nToo short. Rest.\n\nno sentence at all"
    assert pairs([text]) == [("Open the file and read it.", rest.strip())]


def test_a_passage_scores_the_same_alone_and_among_longer_ones() -> None:
    torch.manual_seed(0)
    module = from_hugging_face(configuration(BASE)).eval()
    passages = ["short one", "a passage that is a good deal longer than the other"]
    both = score(module, tokenizer(), "what is it?", passages)
    alone = [float(score(module, tokenizer(), "what is it?", [passage])[0]) for passage in passages]
    assert both == pytest.approx(alone, abs=1e-5)


def test_it_begins_as_the_encoder_with_layers_that_change_nothing() -> None:
    torch.manual_seed(0)
    encoder = transformers.BertModel(transformers.BertConfig(**BASE)).eval()
    for name, parameter in encoder.named_parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape) if "LayerNorm" in name else 0
    ids = torch.arange(2, 42).reshape(2, 20)
    sample = ids, torch.zeros_like(ids), torch.ones_like(ids)
    module = deepened(encoder, configuration(BASE), sample).eval()
    with torch.inference_mode():
        wanted, found = encoder(ids).last_hidden_state, module.bert(ids).last_hidden_state
    assert len(module.bert.encoder.layer) == 6
    assert torch.cosine_similarity(wanted, found, dim=-1).min() > 0.99


def test_a_good_scorer_is_judged_better_than_a_bad_one() -> None:
    class Odd(Even):
        def forward(self, *args: Any, **named: Any) -> Any:
            return SimpleNamespace(logits=-super().forward(*args, **named).logits)

    plain, good = judge(Even(), tokenizer(), PAIRS)
    again, bad = judge(Odd(), tokenizer(), PAIRS)
    assert np.array_equal(plain, again)
    assert good.mean() > 0.8 > 0.3 > bad.mean()
