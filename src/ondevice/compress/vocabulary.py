"""A smaller vocabulary: tokens that a corpus never uses go, from tokenizer and embedding together.

Knows the JSON of `tokenizers` for WordPiece and Unigram, and a model's table of token embeddings. Knows
nothing of what else is compressed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.technique import Technique
from ondevice.data.text import texts as read_texts
from ondevice.errors import BadInput, NeedsCalibration, UnsupportedModel
from ondevice.layers.quantized import QuantizedEmbedding
from ondevice.models.model import Model


@dataclass(frozen=True)
class Vocabulary(Technique):
    """Drop the tokens that occur fewer than `min_count` times in a corpus.

    corpus: what `ondevice.data.text.texts` reads (a folder, a .jsonl file, a data set), or the texts
        themselves; empty for the calibration texts.
    Special tokens and single characters, at the start of a word and inside it, stay, so that any text still
    becomes tokens (a character that is no token itself keeps those it occurs in). With min_count=1 every text
    of the corpus keeps its tokens, and so its output, exactly; `loss_outside` tells what other texts lose.
    Raises UnsupportedModel for tokenizers other than WordPiece and Unigram.
    """

    corpus: str | tuple[str, ...] = ""
    min_count: int = 1

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise BadInput(f"min_count must be 1 or more, not {self.min_count}")

    def apply(self, model: Model, calibration: Calibration | None = None) -> Model:
        texts = self._texts(calibration)
        document = json.loads(model.tokenizer.to_str())
        vocabulary = _vocabulary(document)
        counts = _count(model.tokenizer, texts)
        special = {token["content"] for token in document["added_tokens"]} | _unknown(document)
        prefix = document["model"].get("continuing_subword_prefix", "")
        single = {token for token in vocabulary if len(_characters(token, prefix)) == 1}
        kept = [
            index
            for index, token in enumerate(vocabulary)
            if token in special
            or counts[index] >= self.min_count
            or token in single
            or not single.issuperset(_characters(token, prefix))
        ]
        new_id = {old: new for new, old in enumerate(kept)}
        config = _renumber_config(model.config, new_id) | {"vocab_size": len(kept)}
        if model.config.get("model_type") != "bert" and config.get("pad_token_id") != model.config.get(
            "pad_token_id"
        ):
            raise UnsupportedModel(
                "the padding token would get another number, on which positions depend here"
            )
        name, table = _table(model)
        shrunk = model.with_modules({name: _rows(table, np.array(kept), new_id)})
        tokenizer = Tokenizer.from_str(json.dumps(_shrink(document, kept, new_id), ensure_ascii=False))
        return replace(shrunk, tokenizer=tokenizer, config=config)

    def _texts(self, calibration: Calibration | None) -> Sequence[str]:
        if self.corpus:
            return read_texts(self.corpus).texts if isinstance(self.corpus, str) else self.corpus
        if calibration is None:
            raise NeedsCalibration("vocabulary needs texts: corpus=FOLDER, or calibration texts with --data")
        return calibration.texts


@dataclass(frozen=True)
class VocabularyLoss:
    """What texts lose by a smaller vocabulary.

    tokens_before, tokens_after: sizes of the vocabulary. split: share of the texts that become other tokens.
    longer: tokens a text, after over before. cosine: mean between the outputs of all texts, before and after.
    """

    tokens_before: int
    tokens_after: int
    split: float
    longer: float
    cosine: float


def loss_outside(original: Model, reduced: Model, texts: Sequence[str]) -> VocabularyLoss:
    """Measure what texts that the vocabulary was not made for lose by it."""
    spelt = [
        [[tokenizer.id_to_token(index) for index in ids] for ids in model.tokens(texts)]
        for model in (original, reduced)
        for tokenizer in (model.tokenizer,)
    ]
    before, after = original.predict(texts), reduced.predict(texts)
    cosines = (before * after).sum(axis=1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1))
    return VocabularyLoss(
        original.tokenizer.get_vocab_size(),
        reduced.tokenizer.get_vocab_size(),
        split=float(np.mean([a != b for a, b in zip(*spelt, strict=True)])),
        longer=sum(map(len, spelt[1])) / sum(map(len, spelt[0])),
        cosine=float(cosines.mean()),
    )


def _vocabulary(document: dict[str, Any]) -> list[str]:
    """The tokens in the order of their numbers. Raises UnsupportedModel where one cannot be dropped alone."""
    kind, vocabulary = document["model"]["type"], document["model"]["vocab"]
    if kind == "WordPiece":
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        numbers = [vocabulary[token] for token in tokens]
    elif kind == "Unigram":
        tokens = [token for token, _ in vocabulary]
        numbers = list(range(len(tokens)))
    else:
        raise UnsupportedModel(
            f"the tokenizer is {kind}: tokens can be dropped from WordPiece and Unigram "
            "(in BPE each token is built of others)"
        )
    beyond = [token["content"] for token in document["added_tokens"] if token["id"] >= len(tokens)]
    if numbers != list(range(len(tokens))) or beyond:
        raise UnsupportedModel(f"the tokenizer's numbers have gaps or tokens beyond its table: {beyond}")
    return tokens


def _characters(token: str, prefix: str) -> list[str]:
    """A token's characters as tokens of their own; "<0x41>", a byte, is one of itself."""
    if token.startswith("<0x") and token.endswith(">"):
        return [token]
    inside = bool(prefix) and token.startswith(prefix) and token != prefix
    characters = token.removeprefix(prefix) if inside else token
    return [(prefix if inside or place else "") + letter for place, letter in enumerate(characters)]


def _unknown(document: dict[str, Any]) -> set[str]:
    model = document["model"]
    if model["type"] == "Unigram":
        return set() if model["unk_id"] is None else {model["vocab"][model["unk_id"]][0]}
    return {model["unk_token"]}


def _count(tokenizer: Tokenizer, texts: Sequence[str]) -> Counter[int]:
    """How often each token occurs, nothing cut off: other lengths of the same texts stay safe too."""
    whole = Tokenizer.from_str(tokenizer.to_str())
    whole.no_truncation()
    whole.no_padding()
    counts: Counter[int] = Counter()
    for encoding in whole.encode_batch(list(texts)):
        counts.update(encoding.ids)
    return counts


def _shrink(document: dict[str, Any], kept: list[int], new_id: dict[int, int]) -> dict[str, Any]:
    """The tokenizer's JSON with only the kept tokens, everything renumbered."""
    model = document["model"]
    if model["type"] == "Unigram":
        vocabulary: Any = [model["vocab"][old] for old in kept]
        unknown = model["unk_id"]
        model = model | {"unk_id": None if unknown is None else new_id[unknown]}
    else:
        vocabulary = {token: new_id[old] for token, old in model["vocab"].items() if old in new_id}
    added = [token | {"id": new_id[token["id"]]} for token in document["added_tokens"]]
    padding = document["padding"]
    if padding is not None:
        padding = padding | {"pad_id": new_id[padding["pad_id"]]}
    return document | {
        "model": model | {"vocab": vocabulary},
        "added_tokens": added,
        "padding": padding,
        "post_processor": _renumber_processor(document["post_processor"], new_id),
    }


def _renumber_processor(processor: dict[str, Any] | None, new_id: dict[int, int]) -> dict[str, Any] | None:
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        parts = [_renumber_processor(part, new_id) for part in processor["processors"]]
        return processor | {"processors": parts}
    if processor["type"] == "TemplateProcessing":
        special = {
            name: token | {"ids": [new_id[old] for old in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
        return processor | {"special_tokens": special}
    ends = {key: [processor[key][0], new_id[processor[key][1]]] for key in ("cls", "sep") if key in processor}
    return processor | ends


def _renumber_config(config: dict[str, Any], new_id: dict[int, int]) -> dict[str, Any]:
    """The configuration with every *_token_id renumbered; a token that is gone becomes None."""
    return {
        key: new_id.get(value) if key.endswith("_token_id") and isinstance(value, int) else value
        for key, value in config.items()
    }


def _table(model: Model) -> tuple[str, nn.Embedding | QuantizedEmbedding]:
    """The token embedding and its name."""
    find = getattr(model.module, "get_input_embeddings", None)
    table = find() if callable(find) else None
    for name, part in model.module.named_modules():
        if part is table and isinstance(part, nn.Embedding | QuantizedEmbedding):
            return name, part
    raise UnsupportedModel(
        f"{type(model.module).__name__} has no table of token embeddings that is known here"
    )


def _rows(
    table: nn.Embedding | QuantizedEmbedding, kept: npt.NDArray[np.int64], new_id: dict[int, int]
) -> nn.Module:
    padding = None if table.padding_idx is None else new_id.get(table.padding_idx)
    if isinstance(table, QuantizedEmbedding):
        return table.rows(kept, padding)
    small = nn.Embedding(len(kept), table.embedding_dim, padding_idx=padding, device="meta")
    small.weight = nn.Parameter(table.weight.detach()[torch.from_numpy(kept)], requires_grad=False)
    return small.eval()
