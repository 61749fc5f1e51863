"""Rerankers of the three kinds against transformers, with real tokenizers, on tiny random models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from ondevice.backends.reranker import Reranker
from ondevice.errors import BadInput, UnsupportedModel

QUERY = "a fox over a dog"
PASSAGES = [
    "the quick brown fox",
    "jumps over the lazy dog",
    "numbers 1 2 3",
    "a dog and a fox and a dog",
    "boats",
]


def order(scores: list[float]) -> list[int]:
    return np.argsort(-np.array(scores), kind="stable").tolist()


def test_a_cross_encoder(tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint("bert", "ForSequenceClassification", num_labels=1)
    module = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's own has it
    with torch.inference_mode():
        wanted = [
            float(torch.sigmoid(module(**tokenizer(QUERY, each, return_tensors="pt")).logits)[0, 0])
            for each in PASSAGES
        ]
    with Reranker.open(folder, threads=1) as reranker:
        found = reranker.topk(QUERY, PASSAGES, 3)
        assert [each.position for each in found] == order(wanted)[:3]
        for each in found:
            assert each.score == pytest.approx(wanted[each.position], abs=1e-4)
        assert sorted(each.position for each in reranker.topk(QUERY, PASSAGES, 9)) == [0, 1, 2, 3, 4]


@pytest.fixture
def classifier(tiny_decoder: Callable[..., Path]) -> Path:
    """A Llama for sequence classification whose tokenizer puts pairs together."""
    folder = tiny_decoder("llama", begin=False)
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=1, pad_token_id=0)
    transformers.LlamaForSequenceClassification(config).half().save_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, second = (tokenizer.id_to_token(each) for each in (0, 1))
    tokenizer.post_processor = TemplateProcessing(
        single="$A", pair=f"{first} $B {second} $A {second}", special_tokens=[(first, 0), (second, 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_a_decoder_for_classification(classifier: Path) -> None:
    module = transformers.AutoModelForSequenceClassification.from_pretrained(
        classifier, dtype=torch.float32
    ).eval()
    tokenizer = Tokenizer.from_file(str(classifier / "tokenizer.json"))
    with torch.inference_mode():
        wanted = [
            float(
                torch.sigmoid(
                    module.score(module.model(torch.tensor([tokenizer.encode(QUERY, each).ids]))[0][0, -1])
                )
            )
            for each in PASSAGES
        ]
    with Reranker.open(classifier, threads=1) as reranker:
        found = reranker.topk(QUERY, PASSAGES, 4)
        assert [each.position for each in found] == order(wanted)[:4]
        assert [each.score for each in found] == pytest.approx(
            [wanted[each.position] for each in found], abs=2e-3
        )


def test_a_passage_that_is_too_long_is_cut_and_said(classifier: Path) -> None:
    tokenizer = Tokenizer.from_file(str(classifier / "tokenizer.json"))
    with Reranker.open(classifier, threads=1, longest=40) as reranker:
        long = " ".join(PASSAGES)
        found = {each.position: each for each in reranker.topk(QUERY, [long, "short"], 2)}
        assert [found[0].cut, found[1].cut] == [True, False]
        kept = tokenizer.encode(long).offsets[40 - len(tokenizer.encode(QUERY, "").ids) - 1][1]
        assert reranker.topk(QUERY, [long[:kept]], 1)[0].score == found[0].score
        with pytest.raises(BadInput, match="no room for a passage"):
            reranker.topk(" ".join(PASSAGES), ["short"], 1)


def test_a_language_model_is_asked(tiny_decoder: Callable[..., Path]) -> None:
    folder = tiny_decoder("llama", begin=False)
    template = "{% for each in messages %}{{ each.content }}\n{% endfor %}{% if add_generation_prompt %}> {% endif %}"
    settings = (
        json.loads((folder / "tokenizer_config.json").read_text())
        if (folder / "tokenizer_config.json").exists()
        else {}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    with Reranker.open(folder, threads=1) as reranker:
        found = reranker.topk(QUERY, PASSAGES, 5)
        assert sorted(each.position for each in found) == [0, 1, 2, 3, 4]
        ids = reranker.tokens(QUERY, PASSAGES[0])
    module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    answers = [tokenizer.encode(word, add_special_tokens=False).ids[0] for word in ("yes", "no")]
    with torch.inference_mode():
        yes = module(torch.tensor([ids])).logits[0, -1, answers].softmax(0)[0]
    assert next(each.score for each in found if each.position == 0) == pytest.approx(float(yes), abs=2e-3)


def test_calibrated_it_chooses_as_it_was_asked_to(classifier: Path) -> None:
    samples = [(query, PASSAGES) for query in ("a fox", "the lazy dog", "1 2 3")]
    with Reranker.open(classifier, threads=1) as reranker:
        whole = [{each.position for each in reranker.topk(query, PASSAGES, 2)} for query, _ in samples]
        assert reranker.calibrate(samples, 2, 1.0) >= 0
        assert [
            {each.position for each in reranker.topk(query, PASSAGES, 2)} for query, _ in samples
        ] == whole


def test_bad_input(
    classifier: Path, tiny_checkpoint: Callable[..., Path], tiny_decoder: Callable[..., Path]
) -> None:
    reranker = Reranker.open(classifier, threads=1)
    for query, passages, k, said in (
        ("", PASSAGES, 1, "query is empty"), ("a", [], 1, "passages to rank"),
        ("a", ["b", " "], 1, "none of them empty"), ("a", ["b"], 0, "0 places"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            reranker.topk(query, passages, k)
    reranker.close()
    with pytest.raises(BadInput, match="closed"):
        reranker.topk("a", ["b"])
    with pytest.raises(UnsupportedModel, match="one score"):
        Reranker.open(tiny_checkpoint("bert", "ForSequenceClassification", num_labels=3), threads=1)
    folder = tiny_decoder("llama")
    for each in (*folder.glob("*template*"), *folder.glob("tokenizer_config.json")):
        each.unlink()
    with pytest.raises(BadInput, match="neither a head"):
        Reranker.open(folder, threads=1)
