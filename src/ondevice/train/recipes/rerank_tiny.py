"""rerank-tiny: a cross-encoder of 12 layers that ranks passages of documentation for a query.

Knows its shape and how long it learns. It reads the passage, then the query, as a decoder does (Nogueira et al. 2020;
the published rerankers of 0.6B and more are such decoders too); its last state becomes one score. It begins as lm-8m,
which has read documentation, with four layers more that add nothing yet. A query is the first sentence of a paragraph,
the right passage what follows; wrong ones are among those that BM25 takes for right. Judged beside BM25 on documents
that neither ever saw.
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
from ondevice.models import zoo
from ondevice.models.zoo import ZooScale, from_hugging_face
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import half_precision

_BASE, _LAYERS = "lm-8m", 12
_PASSAGE, _QUERY = 72, 38  # tokens of each at most
_END, _SEPARATOR = 0, 1  # before a text, as lm-8m has read it, and after a passage and a query
_WRONG, _GROUPS = 3, 8  # wrong passages a query; queries a batch
_AMONG, _CANDIDATES = 300, 20  # passages, and those of them that BM25 puts first, which are ranked again

Pair = tuple[str, str]


def configuration(base: dict[str, Any]) -> dict[str, Any]:
    """Of transformers' LlamaForSequenceClassification with one score, from that of the decoder it begins as."""
    return base | {
        "architectures": ["LlamaForSequenceClassification"],
        "num_hidden_layers": _LAYERS,
        "num_labels": 1,
        "pad_token_id": _END,
    }


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 3000 queries once, 20 minutes of one core. Quick: 60, within a minute."""
    full = scale == "full"
    progress("reading documentation", 0.0)
    base = zoo.open_zoo(_BASE)
    domains = ("python", "man", "debian")
    learned = corpora.make("train", 1500 if full else 60, seed=seed, domains=domains)
    judged = corpora.make("test", 200 if full else 20, seed=seed, domains=("python",))
    rng = np.random.default_rng(seed)
    taught = _some(pairs(corpora.texts(learned)), 3000 if full else 60, rng)
    asked = _some(pairs(corpora.texts(judged)), _AMONG if full else 20, rng)
    progress("looking for passages that mislead", 0.1)
    batches = _batches(taught, base.tokenizer, rng)
    config = configuration(base.config)
    torch.manual_seed(seed)
    module = begin_as(base.module, config).train()
    done = 0

    def loss_of(batch: Batch) -> torch.Tensor:
        nonlocal done
        done += 1
        progress("training", done / len(batches))
        return _loss(module, *batch)

    losses = descend(module.parameters(), loss_of, batches, epochs=1, learning_rate=3e-4, seed=seed)
    module.eval()
    progress("judging", 0.9)
    plain, ranked = judge(module, base.tokenizer, asked)
    metrics = {
        "MRR@10": float(ranked.mean()),
        "MRR@10 of BM25": float(plain.mean()),
        "training loss, nats": losses[-1],
        "training queries": float(len(taught)),
    }
    notes = [
        f"ranks the first {_CANDIDATES} of BM25 among {len(asked)} passages again; others keep their place",
        f"began as {_BASE} of recipe {base.record['recipe']}",
    ]
    return Trained(
        module, config, metrics, [learned.fingerprint(), judged.fingerprint()], base.tokenizer, notes
    )


def begin_as(decoder: nn.Module, config: dict[str, Any]) -> nn.Module:
    """The classifier of `config` whose first layers and table are the decoder's, and whose other layers leave their
    input as it is until they learn."""
    module = from_hugging_face(config)
    module.load_state_dict(decoder.state_dict(), strict=False)
    first = int(decoder.config.num_hidden_layers)  # type: ignore[arg-type,union-attr]
    with torch.no_grad():
        for number in range(first, config["num_hidden_layers"]):
            for part in ("self_attn.o_proj", "mlp.down_proj"):
                module.get_parameter(f"model.layers.{number}.{part}.weight").zero_()
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
        ids, mask = _encoded(tokenizer, [(query, passage) for passage in passages])
        found = module(input_ids=ids, attention_mask=mask).logits[:, 0].double().numpy()
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


Batch = tuple[torch.Tensor, torch.Tensor]


def _batches(taught: Sequence[Pair], tokenizer: Any, rng: np.random.Generator) -> list[Batch]:
    """Groups of a right passage and wrong ones, the right one first; the wrong ones are drawn from BM25's first
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
            hard = np.argsort(-index.scores(query), kind="stable")[:_CANDIDATES]
            wrong = rng.permutation(hard[hard != row])[:_WRONG]
            groups.append([(query, passage), *((query, passages[other]) for other in wrong)])
    return [
        _encoded(tokenizer, [pair for group in groups[start : start + _GROUPS] for pair in group])
        for start in range(0, len(groups), _GROUPS)
    ]


def _encoded(tokenizer: Any, rows: Sequence[Pair]) -> Batch:
    """(ids, mask), each (rows, tokens): an end, the passage, a separator, the query, a separator."""
    sides = [
        [encoding.ids for encoding in tokenizer.encode_batch(list(side))] for side in zip(*rows, strict=True)
    ]
    whole = [
        [_END, *passage[:_PASSAGE], _SEPARATOR, *query[:_QUERY], _SEPARATOR]
        for query, passage in zip(*sides, strict=True)
    ]
    ids, mask = (torch.full((len(whole), max(map(len, whole))), fill) for fill in (_END, 0))
    for row, tokens in enumerate(whole):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


def _loss(module: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of telling the right passage from the wrong ones, and of saying of each alone whether it is right."""
    with torch.enable_grad(), half_precision():
        logits = module(input_ids=ids, attention_mask=mask).logits
    scores = logits.float().view(-1, _WRONG + 1)
    right = torch.zeros_like(scores)
    right[:, 0] = 1
    alone = nn.functional.binary_cross_entropy_with_logits(scores, right)
    return nn.functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long)) + 0.5 * alone


def _some(found: Sequence[Pair], count: int, rng: np.random.Generator) -> list[Pair]:
    return [found[index] for index in rng.permutation(len(found))[:count]]
