"""rerank-tiny: a BERT-style cross-encoder of 12 thin layers that ranks passages of documentation for a query.

Knows its shape and how long it learns. A query is the first sentence of a paragraph, the right passage what
follows; wrong ones are those that BM25 takes for right. Judged beside BM25 on documents that it never saw.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.data import corpora
from ondevice.measure.quality.bm25 import BM25
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import begin_from_pairs, learn_tokenizer, stream

_VOCABULARY, _LENGTH = 4096, 112
_SEPARATOR, _WRONG, _GROUPS = 1, 3, 8  # token 1 stands between; wrong passages a query; queries a batch
_CANDIDATES = 20  # of BM25, that are ranked again

Pair = tuple[str, str]


def configuration() -> dict[str, Any]:
    """Of transformers' BertForSequenceClassification with one score; token 0 pads and begins."""
    return {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": _VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "max_position_embeddings": _LENGTH,
        "num_labels": 1,
        "pad_token_id": 0,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 5000 queries, twice, 20 minutes of one core. Quick: 120, within a minute."""
    full = scale == "full"
    progress("reading documentation", 0.0)
    domains = ("python", "man", "debian")
    learned = corpora.make("train", 1500 if full else 100, seed=seed, domains=domains)
    judged = corpora.make("test", 200 if full else 20, seed=seed, domains=("python",))
    texts = corpora.texts(learned)
    tokenizer = learn_tokenizer(texts, _VOCABULARY)
    rng = np.random.default_rng(seed)
    taught = _some(pairs(texts), 5000 if full else 120, rng)
    asked = _some(pairs(corpora.texts(judged)), 300 if full else 30, rng)
    progress("looking for passages that mislead", 0.1)
    batches = _batches(taught, tokenizer, rng)
    config = configuration()
    module = from_hugging_face(config).train()
    begin_from_pairs(module.get_submodule("bert.embeddings.word_embeddings"), stream(tokenizer, texts))
    begin_matching(module, rng)
    losses = descend(
        module.parameters(),
        lambda batch: _loss(module, *batch),
        batches,
        epochs=2,
        learning_rate=5e-4,
        seed=seed,
    )
    module.eval()
    progress("judging", 0.9)
    plain, ranked = judge(module, tokenizer, asked)
    metrics = {
        "MRR@10": float(ranked.mean()),
        "MRR@10 of BM25": float(plain.mean()),
        "training loss, nats": losses[-1],
        "training queries": float(len(taught)),
    }
    notes = [
        f"ranks the first {_CANDIDATES} of BM25 among {len(asked)} passages again; others keep their place"
    ]
    return Trained(module, config, metrics, [learned.fingerprint(), judged.fingerprint()], tokenizer, notes)


def begin_matching(module: nn.Module, rng: np.random.Generator) -> None:
    """Let every head begin by attending to tokens like its own: keys see through the eyes of queries.

    After mimetic initialization (Trockman and Kolter 2023), whose products of query and key matrices begin near a
    multiple of the identity. From independent matrices a model that reads this little never finds out that words
    which are the same matter.
    """
    with torch.no_grad():
        for name, part in module.named_modules():
            if name.endswith("attention.self"):
                query, key = (part.get_submodule(each).get_parameter("weight") for each in ("query", "key"))
                eyes = np.linalg.qr(rng.standard_normal(query.shape))[0]
                query.copy_(torch.from_numpy(eyes))
                key.copy_(query)


def pairs(texts: Sequence[str]) -> list[Pair]:
    """(query, passage) of the paragraphs that are a sentence and more."""
    found: dict[str, str] = {}
    for text in texts:
        for paragraph in text.split("\n\n"):
            plain = " ".join(paragraph.split())
            split = re.match(r"(.{20,200}?[.!?]) (?=[A-Z])(.{80,})", plain)
            if split and split[1].count(" ") >= 3:
                found.setdefault(split[1], split[2][:500])
    return list(found.items())


def score(module: nn.Module, tokenizer: Any, query: str, passages: Sequence[str]) -> npt.NDArray[np.float64]:
    """How well each passage answers, (passages,): the higher the better."""
    with torch.inference_mode():
        ids, kinds, mask = _encoded(tokenizer, [(query, passage) for passage in passages])
        found = module(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits[:, 0].double().numpy()
    return np.asarray(found)


def judge(
    module: nn.Module, tokenizer: Any, asked: Sequence[Pair]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Reciprocal ranks of the right passages among all of them: by BM25, and its first candidates ranked again."""
    passages = [passage for _, passage in asked]
    index = BM25(passages)
    plain = np.stack([index.scores(query) for query, _ in asked])
    again = plain.copy()
    for row, (query, _) in enumerate(asked):
        first = np.argsort(-plain[row], kind="stable")[:_CANDIDATES]
        order = score(module, tokenizer, query, [passages[each] for each in first]).argsort().argsort()
        again[row, first] = plain[row].max() + 1 + order
    return reciprocal_rank(plain), reciprocal_rank(again)


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _batches(taught: Sequence[Pair], tokenizer: Any, rng: np.random.Generator) -> list[Batch]:
    """Groups of a right passage and wrong ones, the right one first; half of the wrong by BM25, the rest by chance."""
    passages = [passage for _, passage in taught]
    index = BM25(passages)
    groups: list[list[Pair]] = []
    for row, (query, passage) in enumerate(taught):
        hard = np.argsort(-index.scores(query), kind="stable")[:10]
        hard = rng.permutation(hard[hard != row])[: (_WRONG + 1) // 2]
        chance = rng.integers(len(passages), size=_WRONG - len(hard))
        wrong = [int(other) if other != row else (row + 1) % len(passages) for other in (*hard, *chance)]
        groups.append([(query, passage), *((query, passages[other]) for other in wrong)])
    return [
        _encoded(tokenizer, [pair for group in groups[start : start + _GROUPS] for pair in group])
        for start in range(0, len(groups), _GROUPS)
    ]


def _encoded(tokenizer: Any, rows: Sequence[Pair]) -> Batch:
    """(ids, token types, mask), each (rows, tokens): a beginning, the query, a separator, the passage."""
    sides = [
        [encoding.ids for encoding in tokenizer.encode_batch(list(side))] for side in zip(*rows, strict=True)
    ]
    whole = [
        ([0, *query[: _LENGTH // 2], _SEPARATOR, *passage][:_LENGTH], min(len(query), _LENGTH // 2) + 2)
        for query, passage in zip(*sides, strict=True)
    ]
    width = max(len(ids) for ids, _ in whole)
    ids, kinds, mask = (torch.zeros(len(whole), width, dtype=torch.long) for _ in range(3))
    for row, (tokens, start) in enumerate(whole):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        kinds[row, start : len(tokens)] = 1
        mask[row, : len(tokens)] = 1
    return ids, kinds, mask


def _loss(module: nn.Module, ids: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    logits = module(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits.view(-1, _WRONG + 1)
    return nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _some(found: Sequence[Pair], count: int, rng: np.random.Generator) -> list[Pair]:
    return [found[index] for index in rng.permutation(len(found))[:count]]
