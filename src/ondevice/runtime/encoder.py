"""Encoders of the BERT family on the kernels: BERT, RoBERTa, XLM-RoBERTa.

Knows the architecture: post-layer-norm blocks, learned positions, token types. Knows nothing of tokenizers,
pooling, files or torch. The tokens of a batch lie one after another without any padding, so a text's result
does not depend on what is beside it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import Activation, Kernels
from ondevice.runtime.projection import (
    Floats,
    Projection,
    Tensors,
    find,
    read_projection,
    read_vector,
    side_by_side,
)
from ondevice.runtime.table import read_table, stored

FAMILIES = ("bert", "roberta", "xlm-roberta")
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Norm:
    """Layer normalisation's scale and offset, (hidden,) each."""

    gamma: Floats
    beta: Floats


@dataclass(frozen=True)
class Layer:
    """One block. query_key_value is empty where all heads were pruned, as is `widen` for neurons."""

    query_key_value: list[Projection]
    heads: int
    attention_output: Projection | Floats  # only the bias where nothing feeds it
    attention_norm: Norm
    widen: Projection | None
    output: Projection | Floats
    output_norm: Norm


class Encoder:
    """hidden states of texts given as token ids.

    tensors: stored tensors by their Hugging Face names, with or without the prefix `bert.` or `roberta.`;
    their shapes are the truth (pruning changes them). config: the Hugging Face configuration.
    Raises UnsupportedModel for another architecture, BadArtifact where tensors are missing or do not fit.
    """

    def __init__(self, tensors: Tensors, config: Mapping[str, Any], kernels: Kernels) -> None:
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UnsupportedModel(f"the native runtime reads {', '.join(FAMILIES)}, not {family!r}")
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
            raise UnsupportedModel("the native runtime reads encoders with absolute positions only")
        act = config.get("hidden_act", "gelu")
        if act not in _ACTIVATIONS:
            raise UnsupportedModel(f"hidden_act {act!r} is not one of {', '.join(_ACTIVATIONS)}")
        self.kernels = kernels
        self.activation = _ACTIVATIONS[act]
        self.epsilon = float(config.get("layer_norm_eps", 1e-12))
        self.padding = int(config.get("pad_token_id") or 0) if family != "bert" else None
        prefix = _prefix(tensors)
        tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        self.tables = [
            read_table(tensors, f"{prefix}embeddings.{table}")
            for table in tables
            if table != tables[2] or stored(tensors, f"{prefix}embeddings.{table}")
        ]
        self.matrices = [matrix for table in self.tables for matrix in table.matrices]
        self.hidden_size = self.tables[0].columns
        if any(matrix.columns != self.hidden_size for matrix in self.matrices):
            raise BadArtifact("the embedding tables differ in width")
        self.embedding_norm = _norm(tensors, f"{prefix}embeddings.LayerNorm", self.hidden_size)
        head_size = int(config["hidden_size"]) // int(config["num_attention_heads"])
        self.scale = head_size**-0.5
        pattern = re.compile(re.escape(prefix) + r"encoder\.layer\.(\d+)\.")
        numbers = sorted({int(match[1]) for name in tensors if (match := pattern.match(name))})
        self.layers = [
            _layer(tensors, f"{prefix}encoder.layer.{number}", self.hidden_size, head_size)
            for number in numbers
        ]
        self.head = _head(tensors, prefix)
        for layer in self.layers:
            for part in (*layer.query_key_value, layer.attention_output, layer.widen, layer.output):
                if isinstance(part, Projection):
                    part.unpack(kernels)
        self._scratch: dict[str, Floats] = {}
        self._turn = threading.Lock()

    @property
    def max_tokens(self) -> int:
        """The longest text that has positions."""
        return self.tables[1].rows - (0 if self.padding is None else self.padding + 1)

    def hidden(self, token_ids: Sequence[Sequence[int]]) -> list[Floats]:
        """The last hidden states of each text, float32 (tokens, hidden). Raises BadInput for bad ids."""
        if not token_ids:
            return []
        with self._turn:
            starts, states = self._forward(token_ids)
            return [states[a:b].copy() for a, b in pairwise(starts)]

    def logits(self, token_ids: Sequence[Sequence[int]]) -> Floats:
        """The class logits of each text, float32 (texts, labels).

        Raises BadInput where the model has no classification head.
        """
        if self.head is None:
            raise BadInput("this model has no classification head; ask for hidden states instead")
        if not token_ids:
            return np.empty((0, self.head[1].rows), np.float32)
        with self._turn:
            starts, states = self._forward(token_ids)
            return self.classify(np.ascontiguousarray(states[starts[:-1]]))

    def classify(self, first: Floats) -> Floats:
        """What the head says of the states of first tokens, (texts, labels)."""
        assert self.head is not None
        dense, classifier = self.head
        return classifier.apply(self.kernels, dense.apply(self.kernels, first, activation="tanh"))

    def embed(self, token_ids: Sequence[Sequence[int]], *, separator: int | None = None) -> Floats:
        """The states that enter the first layer, of all texts one after another, (tokens, hidden).

        separator: the token after which a text's second segment begins, where the model knows segments.
        """
        rows = self._rows(token_ids, sum(map(len, token_ids)), separator)
        states = np.empty((rows.shape[1], self.hidden_size), np.float32)
        self._embed(rows, states)
        return states

    def run(self, number: int, states: Floats, lengths: Sequence[int]) -> None:
        """Put texts of so many tokens each through a layer; states (tokens, hidden) are changed in place."""
        with self._turn:
            self._run(self.layers[number], states, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def _forward(self, token_ids: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], Floats]:
        """Where each text starts, and the states of all tokens in scratch memory."""
        starts = np.zeros(len(token_ids) + 1, np.int64)
        np.cumsum([len(tokens) for tokens in token_ids], out=starts[1:])
        rows = self._rows(token_ids, int(starts[-1]))
        states = self._room("states", rows.shape[1], self.hidden_size)
        self._embed(rows, states)
        for layer in self.layers:
            self._run(layer, states, starts)
        return starts, states

    def _embed(self, rows: npt.NDArray[np.int32], states: Floats) -> None:
        norm = self.embedding_norm
        self.kernels.embed(
            self.matrices, rows, gamma=norm.gamma, beta=norm.beta, epsilon=self.epsilon, out=states
        )

    def _run(self, layer: Layer, states: Floats, starts: npt.NDArray[np.int64]) -> None:
        """Put texts through a layer, in place."""
        tokens, hidden = states.shape
        kernels, other = self.kernels, self._room("other", tokens, hidden)
        if isinstance(layer.attention_output, Projection):
            context = self._attend(layer, states, starts)
            layer.attention_output.apply(kernels, context, other)
        else:
            other[:] = layer.attention_output
        self._normalise(layer.attention_norm, other, states)
        if isinstance(layer.output, Projection):
            assert layer.widen is not None
            wide = self._room("wide", tokens, layer.widen.rows)
            layer.widen.apply(kernels, states, wide, self.activation)
            layer.output.apply(kernels, wide, other)
        else:
            other[:] = layer.output
        self._normalise(layer.output_norm, other, states)

    def _attend(self, layer: Layer, states: Floats, starts: npt.NDArray[np.int64]) -> Floats:
        tokens, width = len(states), sum(part.rows for part in layer.query_key_value)
        room = self._room("wide", tokens, width // 3 * 4).reshape(-1)
        joint = room[: tokens * width].reshape(tokens, width)
        context = room[tokens * width :].reshape(tokens, width // 3)
        if len(layer.query_key_value) == 1:
            layer.query_key_value[0].apply(self.kernels, states, joint)
        else:
            parts = [part.apply(self.kernels, states) for part in layer.query_key_value]
            np.concatenate(parts, axis=1, out=joint)
        half = all(part.int8 for part in layer.query_key_value)  # far finer than int8 has rounded already
        return self.kernels.attention(joint, starts, layer.heads, self.scale, half=half, out=context)

    def _normalise(self, norm: Norm, update: Floats, states: Floats) -> None:
        """states = norm(update + states)"""
        self.kernels.layer_norm(update, norm.gamma, norm.beta, self.epsilon, residual=states, out=states)

    def _rows(
        self, token_ids: Sequence[Sequence[int]], total: int, separator: int | None = None
    ) -> npt.NDArray[np.int32]:
        """The row of each embedding matrix for each token, (matrices, tokens)."""
        rows = np.zeros((len(self.tables), total), np.int32)
        at = 0
        for index, tokens in enumerate(token_ids):
            if not len(tokens):
                raise BadInput(f"text {index} has no tokens")
            if len(tokens) > self.max_tokens:
                raise BadInput(f"text {index} has {len(tokens)} tokens, the model takes {self.max_tokens}")
            ids = np.asarray(tokens, dtype=np.int64)
            if ids.min() < 0 or ids.max() >= self.tables[0].rows:
                bad = int(ids.min() if ids.min() < 0 else ids.max())
                raise BadInput(
                    f"token {bad} of text {index} is outside the vocabulary of {self.tables[0].rows}"
                )
            end = at + len(ids)
            rows[0, at:end] = ids
            if separator is not None and len(self.tables) > 2 and self.tables[2].rows > 1:
                rows[2, at + 1 : end] = np.cumsum(ids == separator)[:-1] > 0
            if self.padding is None:
                rows[1, at:end] = np.arange(len(ids))
            else:  # as RoBERTa counts: padding tokens have no position of their own
                real = ids != self.padding
                rows[1, at:end] = np.cumsum(real) * real + self.padding
            at = end
        return np.concatenate([table.look_up(each) for table, each in zip(self.tables, rows, strict=True)])

    def _room(self, name: str, rows: int, columns: int) -> Floats:
        """Scratch memory (rows, columns), kept for the next call; it grows to the largest need."""
        if name not in self._scratch or self._scratch[name].size < rows * columns:
            self._scratch[name] = np.empty(rows * columns, np.float32)
        return self._scratch[name][: rows * columns].reshape(rows, columns)


def _prefix(tensors: Tensors) -> str:
    name = "embeddings.word_embeddings"
    for prefix in ("", "bert.", "roberta."):
        if stored(tensors, prefix + name):
            return prefix
    raise BadArtifact(f"the table {name} is missing; the artifact is not a whole model")


def _norm(tensors: Tensors, name: str, size: int) -> Norm:
    find(tensors, f"{name}.weight"), find(tensors, f"{name}.bias")
    gamma, beta = (read_vector(tensors, f"{name}.{part}", size) for part in ("weight", "bias"))
    assert gamma is not None
    assert beta is not None
    return Norm(gamma, beta)


def _present(tensors: Tensors, name: str) -> bool:
    """Whether a linear layer has any weight left; one pruned to nothing may be stored without it."""
    if f"{name}.down.weight" in tensors:
        return True
    return f"{name}.weight" in tensors and 0 not in tensors[f"{name}.weight"].format.get("shape", [1])


def _last(tensors: Tensors, name: str, fed: int, size: int) -> Projection | Floats:
    """The layer that closes a block, or its bias alone where nothing is left that feeds it."""
    if fed:
        projection = read_projection(tensors, name)
        if (projection.columns, projection.rows) != (fed, size):
            raise BadArtifact(
                f"{name} is {projection.rows} x {projection.columns}, its neighbours need {size} x {fed}"
            )
        return projection
    bias = read_vector(tensors, f"{name}.bias", size)
    return np.zeros(size, np.float32) if bias is None else bias


def _layer(tensors: Tensors, name: str, hidden: int, head_size: int) -> Layer:
    names = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
    parts = [read_projection(tensors, part) for part in names if _present(tensors, part)]
    width = parts[0].rows if parts else 0
    if (parts and len(parts) != 3) or width % head_size or any(part.rows != width for part in parts):
        raise BadArtifact(f"{name}: query, key and value do not have the same whole number of heads")
    wide_name = f"{name}.intermediate.dense"
    widen = read_projection(tensors, wide_name) if _present(tensors, wide_name) else None
    if any(part.columns != hidden for part in [*parts, *([widen] if widen else [])]):
        raise BadArtifact(f"{name}: a layer does not take the {hidden} values of the hidden state")
    return Layer(
        side_by_side(parts) if parts else [],
        width // head_size,
        _last(tensors, f"{name}.attention.output.dense", width, hidden),
        _norm(tensors, f"{name}.attention.output.LayerNorm", hidden),
        widen,
        _last(tensors, f"{name}.output.dense", widen.rows if widen else 0, hidden),
        _norm(tensors, f"{name}.output.LayerNorm", hidden),
    )


def _head(tensors: Tensors, prefix: str) -> tuple[Projection, Projection] | None:
    """The two layers of a classification head, which read the first token's state."""
    for dense, classifier in (
        ("classifier.dense", "classifier.out_proj"),
        (f"{prefix}pooler.dense", "classifier"),
    ):
        if _present(tensors, dense) and _present(tensors, classifier):
            return read_projection(tensors, dense), read_projection(tensors, classifier)
    return None
