"""rerank-tiny: a cross-encoder of 12 layers that ranks passages of documentation for a query.

Knows its shape and how long it learns. It begins as the packaged MiniLM, which has 6 layers and has only ever embedded
texts, with a layer after each of them that changes nothing yet; decoders that this project trained itself did not learn
to compare two texts in the time that it takes. A query is the first sentence of a paragraph, the right passage what
follows; most wrong ones are among those that BM25 takes for right. Layers are left out at random while it learns (Fan
et al. 2020, "Reducing Transformer Depth on Demand with Structured Dropout"). Judged beside BM25 on documents that it
never saw.
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
from ondevice.models.checkpoint import read_checkpoint
from ondevice.models.load import packaged
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import half_precision

_BASE = "minilm"
_LONGEST = 96  # tokens of a query and a passage together
_LEFT_OUT = 0.15  # of the layers, in each step
_EASY, _HARD = 1, 2  # wrong passages a query: any, and of BM25's first candidates
_GROUPS = 8  # queries a batch
_AMONG, _CANDIDATES = 300, 20  # passages, and those of them that BM25 puts first, which are ranked again

Pair = tuple[str, str]


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 4000 queries once, half an hour of one core. Quick: 120, within a minute."""
    full = scale == "full"
    progress("reading documentation", 0.0)
    base = read_checkpoint(packaged(_BASE))
    tokenizer = base.tokenizer()
    tokenizer.no_padding()
    domains = ("python", "man", "debian")
    learned = corpora.make("train", 1800 if full else 60, seed=seed, domains=domains)
    judged = corpora.make("test", 200 if full else 20, seed=seed, domains=("python",))
    rng = np.random.default_rng(seed)
    taught = _some(pairs(corpora.texts(learned)), 4000 if full else 120, rng)
    asked = _some(pairs(corpora.texts(judged)), _AMONG if full else 20, rng)
    progress("looking for passages that mislead", 0.1)
    batches = _batches(taught, tokenizer, rng)
    config = configuration(base.config)
    torch.manual_seed(seed)
    module = deepened(_sentence_encoder(base), config, _encoded(tokenizer, asked[:32])).train()
    layers = list(module.bert.encoder.layer)
    done = 0

    def loss_of(batch: Batch) -> torch.Tensor:
        nonlocal done
        done += 1
        progress("training", done / len(batches))
        kept = [layer for layer in layers if rng.random() >= _LEFT_OUT]
        module.bert.encoder.layer = nn.ModuleList(kept)
        return _loss(module, *batch)

    moved = [parameter for name, parameter in module.named_parameters() if "embeddings" not in name]
    losses = descend(moved, loss_of, batches, epochs=1, learning_rate=1.5e-4, seed=seed)
    module.bert.encoder.layer = nn.ModuleList(layers)
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
        f"ranks the first {_CANDIDATES} of BM25 among {len(asked)} passages again; others keep their place",
        f"began as {_BASE} with weights {base.weights_hash()[:16]}, {base.licence}",
    ]
    return Trained(module, config, metrics, [learned.fingerprint(), judged.fingerprint()], tokenizer, notes)


def configuration(base: dict[str, Any]) -> dict[str, Any]:
    """Of transformers' BertForSequenceClassification with one score and twice the layers, without dropout."""
    return base | {
        "architectures": ["BertForSequenceClassification"],
        "num_hidden_layers": 2 * base["num_hidden_layers"],
        "num_labels": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


@torch.no_grad()
def deepened(encoder: Any, config: dict[str, Any], sample: Batch) -> Any:
    """The classifier of `config`, each second layer of which is the encoder's and is followed by a copy that gives
    what it gets: its products give nothing, and its norms undo themselves as well as they can for the sample's tokens.
    """
    module: Any = from_hugging_face(config)
    ids, kinds, mask = sample
    states = encoder(ids, token_type_ids=kinds, attention_mask=mask, output_hidden_states=True).hidden_states[
        1:
    ]
    module.bert.embeddings.load_state_dict(encoder.embeddings.state_dict())
    if encoder.pooler is not None:
        module.bert.pooler.load_state_dict(encoder.pooler.state_dict())
    deep = module.bert.encoder.layer
    for number, (layer, after) in enumerate(zip(encoder.encoder.layer, states, strict=True)):
        deep[2 * number].load_state_dict(layer.state_dict())
        copy = deep[2 * number + 1]
        copy.load_state_dict(layer.state_dict())
        tokens = after[mask == 1]
        for part in (copy.attention.output, copy.output):
            part.dense.weight.zero_()
            part.dense.bias.zero_()
            part.LayerNorm.weight.fill_(float(tokens.std(1, correction=0).mean()))
            part.LayerNorm.bias.fill_(float(tokens.mean()))
    return module


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
    """Groups of a right passage and wrong ones, the right one first; the hard ones are drawn from BM25's first
    candidates among as many passages as are judged by.

    Among thousands nearly all of those candidates share more words with the query than the right passage does: from
    such groups nothing is learned, as what helps elsewhere misleads there.
    """
    groups: list[list[Pair]] = []
    for start in range(0, len(taught), _AMONG):
        part = taught[start : start + _AMONG]
        passages = [passage for _, passage in part]
        index = BM25(passages)
        for row, (query, passage) in enumerate(part):
            first = np.argsort(-index.scores(query), kind="stable")[:_CANDIDATES]
            hard = rng.permutation(first[first != row])[:_HARD]
            others = np.setdiff1d(np.arange(len(part)), [row, *hard])
            wrong = [*hard, *rng.permutation(others)[:_EASY]]
            groups.append([(query, passage), *((query, passages[other]) for other in wrong)])
    return [
        _encoded(tokenizer, [pair for group in groups[start : start + _GROUPS] for pair in group])
        for start in range(0, len(groups), _GROUPS)
    ]


def _encoded(tokenizer: Any, rows: Sequence[Pair]) -> Batch:
    """(ids, segments, mask), each (rows, tokens), as BERT reads pairs; the longer one of a pair is cut."""
    tokenizer.enable_truncation(_LONGEST, strategy="longest_first")
    found = tokenizer.encode_batch(list(rows))
    tokenizer.no_truncation()
    ids, kinds, mask = (
        torch.zeros(len(found), max(len(each) for each in found), dtype=torch.long) for _ in range(3)
    )
    for row, each in enumerate(found):
        ids[row, : len(each)] = torch.tensor(each.ids)
        kinds[row, : len(each)] = torch.tensor(each.type_ids)
        mask[row, : len(each)] = 1
    return ids, kinds, mask


def _loss(module: nn.Module, ids: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of telling the right passage from the wrong ones, and of saying of each alone whether it is right."""
    with torch.enable_grad(), half_precision():
        logits = module(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits
    scores = logits.float().view(-1, _EASY + _HARD + 1)
    right = torch.zeros_like(scores)
    right[:, 0] = 1
    alone = nn.functional.binary_cross_entropy_with_logits(scores, right)
    return nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long)) + 0.5 * alone


def _sentence_encoder(base: Any) -> nn.Module:
    from transformers import BertModel

    encoder: nn.Module = BertModel.from_pretrained(base.network)
    return encoder.eval()


def _some(found: Sequence[Pair], count: int, rng: np.random.Generator) -> list[Pair]:
    return [found[index] for index in rng.permutation(len(found))[:count]]
