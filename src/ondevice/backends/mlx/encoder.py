"""BERT, RoBERTa and XLM-RoBERTa in mlx.nn, with their heads.

Knows the arithmetic. Knows nothing of files, of the names in a checkpoint, or of tokenizers.
Sources: Devlin et al. 2018 (BERT), Liu et al. 2019 (RoBERTa), Conneau et al. 2019 (XLM-RoBERTa).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ondevice.errors import BadInput, UnsupportedModel

HEADS = (
    "Model",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMaskedLM",
)

_ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,  # the exact one, with erf
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
}
# Added to the score of padding: finite, so that a row of nothing but padding gives no NaN.
_MASKED = -1e9


@dataclass(frozen=True)
class Arguments:
    """The shape of a network, from config.json."""

    family: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    inner: int
    positions: int
    types: int
    epsilon: float
    padding: int
    activation: str
    labels: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Arguments:
        """Raises BadInput for a missing field, UnsupportedModel for an activation that is not known."""
        roberta = config.get("model_type") != "bert"
        try:
            arguments = cls(
                family=str(config["model_type"]),
                vocabulary=int(config["vocab_size"]),
                width=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                inner=int(config["intermediate_size"]),
                positions=int(config["max_position_embeddings"]),
                types=int(config.get("type_vocab_size", 2)),
                epsilon=float(config.get("layer_norm_eps", 1e-12)),
                padding=int(config.get("pad_token_id", 1 if roberta else 0)),
                activation=str(config.get("hidden_act", "gelu")),
                labels=len(config.get("id2label") or "12"),
                tied=bool(config.get("tie_word_embeddings", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"config.json describes no network: {error!r}") from error
        if arguments.activation not in _ACTIVATIONS:
            raise UnsupportedModel(
                f"activation {arguments.activation!r} is not supported; supported: {', '.join(_ACTIVATIONS)}"
            )
        if arguments.heads < 1 or arguments.width % arguments.heads:
            raise BadInput(
                f"config.json: {arguments.width} features do not divide into {arguments.heads} heads"
            )
        return arguments

    @property
    def longest(self) -> int:
        """Longest input in tokens: RoBERTa counts its positions from padding + 1."""
        return self.positions if self.family == "bert" else self.positions - self.padding - 1


class Layer(nn.Module):
    """Self-attention and feed-forward, each added to its input and normalised afterwards."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        width, epsilon = arguments.width, arguments.epsilon
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, epsilon)
        self.up, self.down = nn.Linear(width, arguments.inner), nn.Linear(arguments.inner, width)
        self.norm = nn.LayerNorm(width, epsilon)
        self._heads, self._activation = arguments.heads, _ACTIVATIONS[arguments.activation]

    def __call__(self, x: mx.array, mask: mx.array | None) -> mx.array:
        """x: (batch, tokens, width); mask: added to the scores, or None."""
        batch, tokens, width = x.shape
        size = width // self._heads
        query, key, value = (
            projection(x).reshape(batch, tokens, self._heads, size).transpose(0, 2, 1, 3)
            for projection in (self.query, self.key, self.value)
        )
        mixed = mx.fast.scaled_dot_product_attention(query, key, value, scale=size**-0.5, mask=mask)
        x = self.attention_norm(x + self.out(mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width)))
        out: mx.array = self.norm(x + self.down(self._activation(self.up(x))))
        return out


class Decoder(nn.Module):
    """Scores of every word; by the word embeddings themselves where they are tied."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.bias = mx.zeros((arguments.vocabulary,))
        if not arguments.tied:
            self.weight = mx.zeros((arguments.vocabulary, arguments.width))

    def __call__(self, x: mx.array, embeddings: mx.array) -> mx.array:
        weight: mx.array = self.get("weight", embeddings)
        return x @ weight.T + self.bias


class Network(nn.Module):
    """An encoder and its head.

    head: "Model" gives hidden states (batch, tokens, width); "ForSequenceClassification" (batch, labels);
    "ForTokenClassification" (batch, tokens, labels); "ForQuestionAnswering" (batch, tokens, 2: start, end);
    "ForMaskedLM" (batch, tokens, vocabulary).
    """

    def __init__(self, arguments: Arguments, head: str) -> None:
        super().__init__()
        if head not in HEADS:
            raise UnsupportedModel(f"head {head!r} is not supported on MLX; supported: {', '.join(HEADS)}")
        width = arguments.width
        self._arguments, self._head = arguments, head
        self.word = nn.Embedding(arguments.vocabulary, width)
        self.position = nn.Embedding(arguments.positions, width)
        self.type = nn.Embedding(arguments.types, width)
        self.norm = nn.LayerNorm(width, arguments.epsilon)
        self.layers = [Layer(arguments) for _ in range(arguments.layers)]
        if head == "ForSequenceClassification":
            self.pooler = nn.Linear(width, width)
        if head == "ForMaskedLM":
            self.transform, self.transform_norm = (
                nn.Linear(width, width),
                nn.LayerNorm(width, arguments.epsilon),
            )
            self.decoder = Decoder(arguments)
        elif head != "Model":
            self.classifier = nn.Linear(width, 2 if head == "ForQuestionAnswering" else arguments.labels)

    @property
    def arguments(self) -> Arguments:
        return self._arguments

    @property
    def head(self) -> str:
        return self._head

    def encode(self, ids: mx.array, mask: mx.array | None = None, types: mx.array | None = None) -> mx.array:
        """Hidden states (batch, tokens, width).

        ids: (batch, tokens); mask: 1 for tokens, 0 for padding, None where nothing is padded; types: which of
        two texts each token belongs to, None for one text.
        """
        if self._arguments.family == "bert":
            position = mx.broadcast_to(mx.arange(ids.shape[1]), ids.shape)
        else:  # as fairseq counts them: padding stands at the padding index, tokens from the next one on
            token = (ids != self._arguments.padding).astype(mx.int32)
            position = mx.cumsum(token, axis=1) * token + self._arguments.padding
        types = mx.zeros_like(ids) if types is None else types
        x: mx.array = self.norm(self.word(ids) + self.position(position) + self.type(types))
        added = None
        if mask is not None:
            added = mx.where(mask[:, None, None, :] > 0, 0.0, _MASKED).astype(x.dtype)
        for layer in self.layers:
            x = layer(x, added)
        return x

    def __call__(
        self, ids: mx.array, mask: mx.array | None = None, types: mx.array | None = None
    ) -> mx.array:
        """What the head makes of the hidden states: see the class. Arguments as `encode`."""
        x = self.encode(ids, mask, types)
        if self._head == "ForSequenceClassification":  # BERT's pooler; RoBERTa has it inside its classifier
            x = self.classifier(mx.tanh(self.pooler(x[:, 0])))
        elif self._head == "ForMaskedLM":
            x = self.transform_norm(_ACTIVATIONS[self._arguments.activation](self.transform(x)))
            x = self.decoder(x, self.word.weight)
        elif self._head != "Model":
            x = self.classifier(x)
        return x
