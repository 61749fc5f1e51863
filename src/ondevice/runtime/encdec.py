"""Encoder-decoders on the kernels: T5, its version 1.1, Flan-T5.

Knows the architecture: pre-norm blocks without means or biases, scores that are not scaled, and a bias by the distance
of two tokens. Knows nothing of tokenizers, files or torch. Matrices run on the kernels; attention, whose bias no kernel
adds, is NumPy, a text at a time in the encoder and a token at a time in the decoder: so a text's result does not depend
on what is beside it, nor on how its tokens are cut into steps.

Sources: Raffel et al. 2020, "Exploring the Limits of Transfer Learning"; Shazeer 2020 for the gate of version 1.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import Kernels, Linear
from ondevice.runtime.projection import Projection, Tensors, read_projection, read_vector, side_by_side
from ondevice.runtime.table import read_table

Floats = npt.NDArray[np.float32]
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}


@dataclass(frozen=True)
class Shape:
    """Sizes, from a Hugging Face configuration. gated: whether the feed-forward layer has a gate. scaled: whether
    states are divided by sqrt(hidden) before they give logits."""

    hidden: int
    heads: int
    head_size: int
    encoder_layers: int
    decoder_layers: int
    buckets: int
    distance: int
    epsilon: float
    activation: str
    gated: bool
    scaled: bool
    start: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Raises UnsupportedModel for another architecture, BadArtifact where a size is missing."""
        if config.get("model_type") != "t5":
            raise UnsupportedModel(f"the encoder-decoder reads t5, not {config.get('model_type')!r}")
        gate, _, activation = str(config.get("feed_forward_proj", "relu")).rpartition("-")
        if gate == "gated" and activation == "gelu":
            activation = "gelu_new"  # as transformers reads version 1.1
        if gate not in ("", "gated") or activation not in _ACTIVATIONS:
            raise UnsupportedModel(f"feed_forward_proj {config.get('feed_forward_proj')!r} is not supported")
        tied = config.get("tie_word_embeddings") is not False
        try:
            layers = int(config["num_layers"])
            start = config.get("decoder_start_token_id")
            shape = cls(
                int(config["d_model"]), int(config["num_heads"]), int(config["d_kv"]), layers,
                int(config.get("num_decoder_layers") or layers),
                int(config.get("relative_attention_num_buckets", 32)),
                int(config.get("relative_attention_max_distance", 128)),
                float(config.get("layer_norm_epsilon", 1e-6)), _ACTIVATIONS[activation], gate == "gated",
                bool(config.get("scale_decoder_outputs", tied)),
                int(config.get("pad_token_id") or 0) if start is None else int(start),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as problem:
            raise BadArtifact(f"config.json lacks a size of the encoder-decoder: {problem!r}") from problem
        if min(shape.heads, shape.head_size, layers, shape.decoder_layers) < 1 or shape.buckets < 4:
            raise BadArtifact("config.json has sizes that are no sizes")
        if shape.distance <= shape.buckets // 2:
            raise BadArtifact("relative_attention_max_distance must be more than half of the buckets")
        return shape


@dataclass(frozen=True)
class Attention:
    """norm comes before it. queries, and keys and values side by side, of what is attended to."""

    norm: Floats
    queries: Projection
    memory: list[Projection]
    output: Projection


@dataclass(frozen=True)
class Feed:
    """widen: one matrix, or gate and up."""

    norm: Floats
    widen: list[Projection]
    narrow: Projection


@dataclass(frozen=True)
class Block:
    """One layer; crossed: attention to the encoder's states, in the decoder."""

    attention: Attention
    crossed: Attention | None
    feed: Feed


class Written:
    """A text that the decoder writes. length: tokens that it has read."""

    def __init__(self, layers: int, crossed: list[tuple[Floats, Floats]]) -> None:
        self.length = 0
        self.crossed = crossed  # keys and values of the source, (heads, tokens, head_size) by layer
        self.past: list[tuple[Floats, Floats]] = [(crossed[0][0][:, :0], crossed[0][0][:, :0])] * layers

    def remember(self, layer: int, place: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        """Keep one token's keys and values, (heads, head_size); all up to it, (heads, tokens, head_size)."""
        room = self.past[layer]
        if room[0].shape[1] <= place:  # doubles, so that a long text is not copied for each token
            grown = np.zeros((2, len(keys), max(16, 2 * place), keys.shape[1]), np.float32)
            for new, old in zip(grown, room, strict=True):
                new[:, :place] = old
            room = self.past[layer] = (grown[0], grown[1])
        room[0][:, place], room[1][:, place] = keys, values
        return room[0][:, : place + 1], room[1][:, : place + 1]


class EncoderDecoder:
    """Reads source texts and writes others.

    tensors: stored tensors by their Hugging Face names. config: the Hugging Face configuration.
    Raises UnsupportedModel for another architecture, BadArtifact where tensors are missing or do not fit.
    """

    def __init__(self, tensors: Tensors, config: Mapping[str, Any], kernels: Kernels) -> None:
        self.kernels, self.shape = kernels, Shape.of(config)
        shape = self.shape
        self.table = read_table(tensors, "shared")
        if self.table.columns != shape.hidden:
            raise BadArtifact(
                f"the embeddings have {self.table.columns} values, config.json says {shape.hidden}"
            )
        self.encoder = [self._block(tensors, f"encoder.block.{n}") for n in range(shape.encoder_layers)]
        self.decoder = [self._block(tensors, f"decoder.block.{n}") for n in range(shape.decoder_layers)]
        self.encoder_norm = self._gamma(tensors, "encoder.final_layer_norm")
        self.decoder_norm = self._gamma(tensors, "decoder.final_layer_norm")
        self._encoder_bias, self._decoder_bias = (
            self._bias(tensors, part) for part in ("encoder", "decoder")
        )
        if "lm_head.weight" in tensors:
            self.head = read_projection(tensors, "lm_head")
        else:
            if len(self.table.matrices) != 1:
                raise UnsupportedModel(
                    "an embedding table in bands cannot give logits; store it as one matrix"
                )
            self.head = Projection(Linear(self.table.matrices, int8=self.table.matrices[0].tiled))

    def begin(self, sources: Sequence[Sequence[int]]) -> list[Written]:
        """Read source texts; the empty texts that are to be written of each.

        Raises BadInput for a text without tokens and a token outside the vocabulary.
        """
        states = self.encode(sources)
        sizes = np.cumsum([len(each) for each in states])[:-1]
        together = np.concatenate(states)
        parts: list[list[tuple[Floats, Floats]]] = [[] for _ in states]
        for block in self.decoder:
            assert block.crossed is not None
            joint = _apply(self.kernels, block.crossed.memory, together)
            for part, each in zip(parts, np.split(joint, sizes)):
                keys, values = np.split(each, 2, axis=1)
                part.append((self._by_head(keys), self._by_head(values)))
        return [Written(len(self.decoder), part) for part in parts]

    def encode(self, sources: Sequence[Sequence[int]]) -> list[Floats]:
        """The encoder's last states of each text, (tokens, hidden). Raises BadInput as `begin`."""
        ids = [self._checked(source) for source in sources]
        if not ids:
            raise BadInput("there is no text to read")
        cuts = np.cumsum([len(each) for each in ids])[:-1]
        biases = {len(each): self._encoder_scores(len(each)) for each in ids}
        states, update = self._embed(np.concatenate(ids)), None
        for block in self.encoder:
            part = block.attention
            normal = self.kernels.rms_norm(states, part.norm, self.shape.epsilon, update=update)
            joint = _apply(self.kernels, [part.queries, *part.memory], normal)
            mixed = [self._attend_to_all(each, biases[len(each)]) for each in np.split(joint, cuts)]
            update = part.output.apply(self.kernels, np.concatenate(mixed))
            update = self._feed(block.feed, states, update)
        return np.split(
            self.kernels.rms_norm(states, self.encoder_norm, self.shape.epsilon, update=update), cuts
        )

    def step(self, batch: Sequence[tuple[Written, Sequence[int]]], *, every: bool = False) -> list[Floats]:
        """Read the next tokens of each text; the logits after its last one, (1, vocabulary) each.

        The first token of a text is `shape.start`. every: after every token, (tokens, vocabulary).
        Raises BadInput for a token outside the vocabulary, a part without tokens, and a text that is there twice.
        """
        ids = [self._checked(tokens) for _, tokens in batch]
        if not ids:
            return []
        if len({id(text) for text, _ in batch}) != len(batch):
            raise BadInput("a text is in the batch twice; give its tokens in one part")
        ends = np.cumsum([len(each) for each in ids])
        places = [(text, text.length + n) for (text, _), each in zip(batch, ids) for n in range(len(each))]
        states, update = self._embed(np.concatenate(ids)), None
        for layer, block in enumerate(self.decoder):
            part, crossed = block.attention, block.crossed
            assert crossed is not None
            normal = self.kernels.rms_norm(states, part.norm, self.shape.epsilon, update=update)
            joint = _apply(self.kernels, [part.queries, *part.memory], normal)
            mixed = [self._look_back(*place, layer, row) for place, row in zip(places, joint, strict=True)]
            update = part.output.apply(self.kernels, np.concatenate(mixed))
            normal = self.kernels.rms_norm(states, crossed.norm, self.shape.epsilon, update=update)
            queries = crossed.queries.apply(self.kernels, normal)
            mixed = [
                _attend(self._by_head(row[None]), *text.crossed[layer])
                for (text, _), row in zip(places, queries)
            ]
            update = crossed.output.apply(self.kernels, np.concatenate(mixed))
            update = self._feed(block.feed, states, update)
        for (text, _), each in zip(batch, ids):
            text.length += len(each)
        states = self.kernels.rms_norm(states, self.decoder_norm, self.shape.epsilon, update=update)
        wanted = states if every else np.ascontiguousarray(states[ends - 1])
        if self.shape.scaled:
            wanted *= np.float32(self.shape.hidden**-0.5)
        logits = self.head.apply(self.kernels, wanted)
        return np.split(logits, ends[:-1]) if every else [row[None] for row in logits]

    def greedy(
        self, sources: Sequence[Sequence[int]], *, limit: int, ends: Sequence[int] = ()
    ) -> list[list[int]]:
        """The likeliest tokens one by one, up to `limit` or one of `ends`, which is not part of the text."""
        texts = self.begin(sources)
        found: list[list[int]] = [[] for _ in texts]
        running = dict.fromkeys(range(len(texts)), self.shape.start)
        for _ in range(limit):
            if not running:
                break
            logits = self.step([(texts[number], [token]) for number, token in running.items()])
            chosen = {number: int(row[0].argmax()) for number, row in zip(running, logits)}
            running = {number: token for number, token in chosen.items() if token not in ends}
            for number, token in running.items():
                found[number].append(token)
        return found

    def _attend_to_all(self, joint: Floats, bias: Floats) -> Floats:
        queries, keys, values = (self._by_head(side) for side in np.split(joint, 3, axis=1))
        return _attend(queries, keys, values, bias)

    def _look_back(self, text: Written, place: int, layer: int, row: Floats) -> Floats:
        """Attention of one token to its text up to itself."""
        queries, keys, values = row.reshape(3, self.shape.heads, self.shape.head_size)
        past = text.remember(layer, place, keys, values)
        distances = np.minimum(np.arange(place + 1)[::-1], self.shape.distance)
        return _attend(queries[:, None], *past, self._decoder_bias[:, None, distances])

    def _feed(self, feed: Feed, states: Floats, update: Floats) -> Floats:
        normal = self.kernels.rms_norm(states, feed.norm, self.shape.epsilon, update=update)
        if self.shape.gated:
            wide = self.kernels.gated(_apply(self.kernels, feed.widen, normal), self.shape.activation)
        else:
            wide = feed.widen[0].apply(self.kernels, normal)
            self.kernels.activate(wide, self.shape.activation)  # type: ignore[arg-type]
        return feed.narrow.apply(self.kernels, wide)

    def _embed(self, ids: npt.NDArray[np.int64]) -> Floats:
        return self.kernels.embed(self.table.matrices, self.table.look_up(ids.astype(np.int32)))

    def _by_head(self, rows: Floats) -> Floats:
        """(tokens, heads * head_size) as (heads, tokens, head_size)."""
        return rows.reshape(len(rows), self.shape.heads, self.shape.head_size).swapaxes(0, 1)

    def _encoder_scores(self, tokens: int) -> Floats:
        """What is added to the scores of a text, (heads, tokens, tokens)."""
        limit = self.shape.distance
        distances = np.arange(tokens) - np.arange(tokens)[:, None]
        return self._encoder_bias[:, np.clip(distances, -limit, limit) + limit]

    def _bias(self, tensors: Tensors, part: str) -> Floats:
        """By head and distance: in the encoder from -distance to distance, in the decoder from 0 back to it."""
        name = f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        if name not in tensors:
            raise BadArtifact(f"tensor {name} is missing; the artifact is not a whole model")
        table = np.asarray(tensors[name].to_dense(), np.float32)
        shape = self.shape
        if table.shape != (shape.buckets, shape.heads):
            raise BadArtifact(f"tensor {name} has shape {table.shape}, not {(shape.buckets, shape.heads)}")
        if part == "decoder":
            return table[_buckets(np.arange(shape.distance + 1), shape.buckets, shape.distance)].T
        distances, half = np.arange(-shape.distance, shape.distance + 1), shape.buckets // 2
        buckets = _buckets(np.abs(distances), half, shape.distance) + np.where(distances > 0, half, 0)
        return table[buckets].T

    def _checked(self, tokens: Sequence[int]) -> npt.NDArray[np.int64]:
        ids = np.asarray(tokens, np.int64)
        if not ids.size:
            raise BadInput("a text has no tokens")
        if ids.min() < 0 or ids.max() >= self.table.rows:
            raise BadInput(f"a token is outside the vocabulary of {self.table.rows}")
        return ids

    def _block(self, tensors: Tensors, name: str) -> Block:
        crossed = name.startswith("decoder")
        feed = f"{name}.layer.{2 if crossed else 1}"
        widen = ("wi_0", "wi_1") if self.shape.gated else ("wi",)
        wide = side_by_side([read_projection(tensors, f"{feed}.DenseReluDense.{part}") for part in widen])
        return Block(
            self._attention(tensors, f"{name}.layer.0", "SelfAttention"),
            self._attention(tensors, f"{name}.layer.1", "EncDecAttention") if crossed else None,
            Feed(
                self._gamma(tensors, f"{feed}.layer_norm"),
                wide,
                read_projection(tensors, f"{feed}.DenseReluDense.wo"),
            ),
        )

    def _attention(self, tensors: Tensors, name: str, kind: str) -> Attention:
        parts = [read_projection(tensors, f"{name}.{kind}.{part}") for part in "qkvo"]
        width = self.shape.heads * self.shape.head_size
        sizes = [(part.rows, part.columns) for part in parts]
        if sizes != [(width, self.shape.hidden)] * 3 + [(self.shape.hidden, width)]:
            raise BadArtifact(f"{name}.{kind}: the matrices do not have the sizes of config.json")
        return Attention(
            self._gamma(tensors, f"{name}.layer_norm"), parts[0], side_by_side(parts[1:3]), parts[3]
        )

    def _gamma(self, tensors: Tensors, name: str) -> Floats:
        gamma = read_vector(tensors, f"{name}.weight", self.shape.hidden)
        if gamma is None:
            raise BadArtifact(f"tensor {name}.weight is missing; the artifact is not a whole model")
        return gamma


def _buckets(distances: npt.NDArray[Any], buckets: int, most: int) -> npt.NDArray[np.int64]:
    """The bucket of each distance >= 0: near ones have their own, far ones share ever wider ones.

    In float32, as the models were trained: at a boundary a bucket depends on it.
    """
    exact = buckets // 2
    ratio = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(most / exact)) * np.float32(buckets - exact)).astype(np.int64)
    return np.where(distances < exact, distances, np.minimum(far, buckets - 1)).astype(np.int64)


def _attend(queries: Floats, keys: Floats, values: Floats, bias: Floats | None = None) -> Floats:
    """(tokens, heads * head_size) of queries (heads, tokens, head_size)."""
    scores = queries @ keys.swapaxes(1, 2)
    if bias is not None:
        scores += bias
    scores = np.exp(scores - scores.max(axis=2, keepdims=True))
    scores /= scores.sum(axis=2, keepdims=True)
    mixed = (scores @ values).swapaxes(0, 1)
    return np.ascontiguousarray(mixed, dtype=np.float32).reshape(len(mixed), -1)


def _apply(kernels: Kernels, parts: Sequence[Projection], x: Floats) -> Floats:
    """The outputs of several projections side by side."""
    return np.concatenate([part.apply(kernels, x) for part in parts], axis=1)
