"""Encoder-decoders on the kernels: T5, its version 1.1, Flan-T5.

Knows the architecture: pre-norm blocks without means or biases, scores that are not scaled, and a bias by the distance
of two tokens. Knows nothing of tokenizers, files or torch. A text's logits do not depend on what is beside it, on how
its tokens are cut into steps, or on threads: not in a single bit.

Sources: Raffel et al. 2020, "Exploring the Limits of Transfer Learning"; Shazeer 2020 for the gate of version 1.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.kernels import PAGE, Bias, CacheDtype, Kernels, Linear, Places
from ondevice.runtime.kv.paged import CachedSequence, CacheFull, PagedCache, places
from ondevice.runtime.projection import Projection, Tensors, read_projection, read_vector, side_by_side
from ondevice.runtime.relative import distance_bias
from ondevice.runtime.table import read_table

Floats = npt.NDArray[np.float32]
FAMILY = "t5"
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}


@dataclass(frozen=True)
class Shape:
    """Sizes, from a Hugging Face configuration. gated: whether the feed-forward layer has a gate. scaled: whether
    states are divided by sqrt(hidden) before they give logits. start: the token that every text begins with. positions:
    longest text that the model was made for; longer ones work too."""

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
    positions: int

    @property
    def layers(self) -> int:
        """That a cache has."""
        return self.decoder_layers

    @property
    def cached_heads(self) -> int:
        return self.heads

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Raises UnsupportedModel for another architecture, BadArtifact where a size is missing."""
        if config.get("model_type") != FAMILY:
            raise UnsupportedModel(f"the encoder-decoder reads {FAMILY}, not {config.get('model_type')!r}")
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
                int(config.get("n_positions") or 512),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as problem:
            raise BadArtifact(f"config.json lacks a size of the encoder-decoder: {problem!r}") from problem
        if min(shape.heads, shape.head_size, layers, shape.decoder_layers) < 1 or shape.buckets < 4:
            raise BadArtifact("config.json has sizes that are no sizes")
        if shape.head_size % 16:
            raise UnsupportedModel(f"heads must hold a multiple of 16 values, not {shape.head_size}")
        if shape.distance <= shape.buckets // 2:
            raise BadArtifact("relative_attention_max_distance must be more than half of the buckets")
        return shape


@dataclass(frozen=True)
class Attention:
    """Of a text to itself. norm comes before it. joint: queries, keys and values in as few products as can be."""

    norm: Floats
    joint: list[Projection]
    output: Projection


@dataclass(frozen=True)
class Crossed:
    """Attention of a text to its source. memory: keys and values of the source."""

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
    """One layer; crossed: in the decoder."""

    attention: Attention
    crossed: Crossed | None
    feed: Feed


class Written(CachedSequence):
    """A text that the decoder writes: its own tokens, and the source that they are written of, in one cache."""

    def __init__(self, cache: PagedCache, source: CachedSequence) -> None:
        super().__init__(cache)
        self.source = source

    def fork(self) -> Written:
        """Another text with the same past and source."""
        other = Written(self._cache, self.source.fork())
        own = super().fork()
        other._pages, other.length = own._pages, own.length
        return other

    def free(self) -> None:
        """Give all pages back, the source's too; nothing can be written of it afterwards."""
        super().free()
        self.source.free()


class EncoderDecoder:
    """Reads source texts and writes others.

    tensors: stored tensors by their Hugging Face names. config: the Hugging Face configuration. context: most tokens of
    a source, and of a text. cache_tokens: of all sources and texts together; None for one of each.
    Raises UnsupportedModel for another architecture, BadArtifact where tensors are missing or do not fit.
    """

    def __init__(
        self,
        tensors: Tensors,
        config: Mapping[str, Any],
        kernels: Kernels,
        *,
        context: int | None = None,
        cache_tokens: int | None = None,
        cache_dtype: CacheDtype = "float16",
    ) -> None:
        self.kernels, self.shape = kernels, Shape.of(config)
        shape = self.shape
        self.context = context or shape.positions
        self.table = read_table(tensors, "shared")
        if self.table.columns != shape.hidden:
            raise BadArtifact(
                f"the embeddings have {self.table.columns} values, config.json says {shape.hidden}"
            )
        self.encoder = [self._block(tensors, f"encoder.block.{n}") for n in range(shape.encoder_layers)]
        self.decoder = [self._block(tensors, f"decoder.block.{n}") for n in range(shape.decoder_layers)]
        self.encoder_norm = self._gamma(tensors, "encoder.final_layer_norm")
        self.decoder_norm = self._gamma(tensors, "decoder.final_layer_norm")
        self._biases = {part: self._bias(tensors, part) for part in ("encoder", "decoder")}
        self._unturned = np.ones((self.context, 1), np.float32), np.zeros((self.context, 1), np.float32)
        self.cache = PagedCache(
            cache_tokens or -(-self.context // PAGE) * PAGE * 2,
            shape.decoder_layers,
            shape.heads,
            shape.head_size,
            cache_dtype,
        )
        if "lm_head.weight" in tensors:
            self.head = read_projection(tensors, "lm_head")
        else:
            if len(self.table.matrices) != 1:
                raise UnsupportedModel("a table in bands cannot give logits; store it as one matrix")
            self.head = Projection(Linear(self.table.matrices, int8=self.table.matrices[0].tiled))

    @property
    def vocabulary(self) -> int:
        """Rows of the logits."""
        return self.head.rows

    def begin(self, sources: Sequence[Sequence[int]]) -> list[Written]:
        """Read source texts; the empty texts that are to be written of each.

        Raises BadInput for a text without tokens, one longer than the context, and a token outside the vocabulary;
        CacheFull where the cache has no room for their keys and values.
        """
        states = self.encode(sources)
        texts = [Written(self.cache, self.cache.sequence()) for _ in states]
        try:
            for text, each in zip(texts, states):
                text.source.reserve(len(each))
        except CacheFull:
            for text in texts:
                text.free()
            raise
        together, width = np.concatenate(states), self.shape.heads * self.shape.head_size
        where = places((text.source, len(each)) for text, each in zip(texts, states))
        joint = np.zeros((len(together), 3 * width), np.float32)  # of queries there are none
        for block, cache in zip(self.decoder, self.cache.layers, strict=True):
            assert block.crossed is not None
            joint[:, width:] = _together(self.kernels, block.crossed.memory, together)
            self.kernels.remember(joint, self.shape.heads, cache, where, *self._unturned)
        for text, each in zip(texts, states):
            text.source.advance(len(each))
        return texts

    def encode(self, sources: Sequence[Sequence[int]]) -> list[Floats]:
        """The encoder's last states of each text, (tokens, hidden). Raises BadInput as `begin`."""
        ids = [self._checked(source) for source in sources]
        if not ids:
            raise BadInput("there is no text to read")
        if (longest := max(map(len, ids))) > self.context:
            raise BadInput(
                f"a text has {longest} tokens, the context holds {self.context}; shorten it or open the model with a "
                "longer context"
            )
        kernels, shape = self.kernels, self.shape
        once = PagedCache(
            sum(-(-len(each) // PAGE) * PAGE for each in ids), 1, shape.heads, shape.head_size, "float32"
        )  # of one layer at a time
        sequences = [once.sequence() for _ in ids]
        for sequence, each in zip(sequences, ids):
            sequence.reserve(len(each))
        where = places((sequence, len(each)) for sequence, each in zip(sequences, ids))
        lengths = np.array([len(each) for each in ids], np.int32)
        whole = Places(
            where.sequences, lengths[where.sequences] - 1, where.tables
        )  # all see all of their text
        bias = Bias(self._biases["encoder"], self.context - where.positions)
        states, update = self._embed(np.concatenate(ids)), None
        for block in self.encoder:
            part = block.attention
            normal = kernels.rms_norm(states, part.norm, shape.epsilon, update=update)
            joint = _together(kernels, part.joint, normal)
            kernels.remember(joint, shape.heads, once.layers[0], where, *self._unturned)
            mixed = kernels.attend(joint, shape.heads, once.layers[0], whole, 1.0, bias=bias)
            update = self._feed(block.feed, states, part.output.apply(kernels, mixed))
        normal = kernels.rms_norm(states, self.encoder_norm, shape.epsilon, update=update)
        return np.split(normal, np.cumsum(lengths)[:-1])

    def step(
        self, batch: Sequence[tuple[CachedSequence, Sequence[int]]], *, every: bool = False
    ) -> list[Floats]:
        """Read the next tokens of each text; the logits after its last one, (1, vocabulary) each.

        Texts are those of `begin`; the first token of each is `shape.start`. every: after every token, (tokens,
        vocabulary). Raises BadInput for a token outside the vocabulary, a part without tokens, a text that is there
        twice, and one longer than the context; CacheFull where the cache has no room. Then no text has changed.
        """
        ids = [self._checked(tokens) for _, tokens in batch]
        if not ids:
            return []
        if len({id(text) for text, _ in batch}) != len(batch):
            raise BadInput("a text is in the batch twice; give its tokens in one part")
        for (text, _), each in zip(batch, ids):
            if text.length + len(each) > self.context:
                raise BadInput(
                    f"a text of {text.length + len(each)} tokens is more than the context of {self.context}"
                )
        try:
            for (text, _), each in zip(batch, ids):
                text.reserve(len(each))
        except CacheFull:
            for text, _ in batch:
                text.rollback(text.length)  # gives back what was reserved
            raise
        states = self._written([text for text, _ in batch if isinstance(text, Written)], ids)
        ends = np.cumsum([len(each) for each in ids])
        for (text, _), each in zip(batch, ids):
            text.advance(len(each))
        wanted = states if every else np.ascontiguousarray(states[ends - 1])
        if self.shape.scaled:
            wanted *= np.float32(self.shape.hidden**-0.5)
        logits = self.head.apply(self.kernels, wanted)
        return np.split(logits, ends[:-1]) if every else [row[None] for row in logits]

    def _written(self, texts: Sequence[Written], ids: Sequence[npt.NDArray[np.int64]]) -> Floats:
        """The decoder's normalised last states, (tokens, hidden)."""
        kernels, shape = self.kernels, self.shape
        where = places((text, len(each)) for text, each in zip(texts, ids, strict=True))
        lengths = np.array([text.source.length for text in texts], np.int32)
        sources = places((text.source, 0) for text in texts).tables
        whole = Places(where.sequences, lengths[where.sequences] - 1, sources)
        bias = Bias(self._biases["decoder"], self.context - where.positions)
        width = shape.heads * shape.head_size
        states, update = self._embed(np.concatenate(ids)), None
        queries = np.zeros((len(states), 3 * width), np.float32)
        for block, cache in zip(self.decoder, self.cache.layers, strict=True):
            part, crossed = block.attention, block.crossed
            assert crossed is not None
            normal = kernels.rms_norm(states, part.norm, shape.epsilon, update=update)
            joint = _together(kernels, part.joint, normal)
            kernels.remember(joint, shape.heads, cache, where, *self._unturned)
            update = part.output.apply(
                kernels, kernels.attend(joint, shape.heads, cache, where, 1.0, bias=bias)
            )
            normal = kernels.rms_norm(states, crossed.norm, shape.epsilon, update=update)
            queries[:, :width] = crossed.queries.apply(kernels, normal)
            update = crossed.output.apply(kernels, kernels.attend(queries, shape.heads, cache, whole, 1.0))
            update = self._feed(block.feed, states, update)
        return kernels.rms_norm(states, self.decoder_norm, shape.epsilon, update=update)

    def _feed(self, feed: Feed, states: Floats, update: Floats) -> Floats:
        normal = self.kernels.rms_norm(states, feed.norm, self.shape.epsilon, update=update)
        if self.shape.gated:
            wide = self.kernels.gated(_together(self.kernels, feed.widen, normal), self.shape.activation)
        else:
            wide = feed.widen[0].apply(self.kernels, normal)
            self.kernels.activate(wide, self.shape.activation)  # type: ignore[arg-type]
        return feed.narrow.apply(self.kernels, wide)

    def _embed(self, ids: npt.NDArray[np.int64]) -> Floats:
        return self.kernels.embed(self.table.matrices, self.table.look_up(ids.astype(np.int32)))

    def _bias(self, tensors: Tensors, part: str) -> Floats:
        name = f"{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        if name not in tensors:
            raise BadArtifact(f"tensor {name} is missing; the artifact is not a whole model")
        table = np.asarray(tensors[name].to_dense(), np.float32)
        shape = self.shape
        if table.shape != (shape.buckets, shape.heads):
            raise BadArtifact(f"tensor {name} has shape {table.shape}, not {(shape.buckets, shape.heads)}")
        return distance_bias(table, self.context, shape.distance, ahead=part == "encoder")

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
            self._attention(tensors, f"{name}.layer.0"),
            self._crossed(tensors, f"{name}.layer.1") if crossed else None,
            Feed(
                self._gamma(tensors, f"{feed}.layer_norm"),
                wide,
                read_projection(tensors, f"{feed}.DenseReluDense.wo"),
            ),
        )

    def _attention(self, tensors: Tensors, name: str) -> Attention:
        *joint, output = self._projections(tensors, f"{name}.SelfAttention")
        return Attention(self._gamma(tensors, f"{name}.layer_norm"), side_by_side(joint), output)

    def _crossed(self, tensors: Tensors, name: str) -> Crossed:
        queries, *memory, output = self._projections(tensors, f"{name}.EncDecAttention")
        return Crossed(self._gamma(tensors, f"{name}.layer_norm"), queries, side_by_side(memory), output)

    def _projections(self, tensors: Tensors, name: str) -> list[Projection]:
        """Of queries, keys, values and output."""
        parts = [read_projection(tensors, f"{name}.{part}") for part in "qkvo"]
        width = self.shape.heads * self.shape.head_size
        sizes = [(part.rows, part.columns) for part in parts]
        if sizes != [(width, self.shape.hidden)] * 3 + [(self.shape.hidden, width)]:
            raise BadArtifact(f"{name}: the matrices do not have the sizes of config.json")
        return parts

    def _gamma(self, tensors: Tensors, name: str) -> Floats:
        gamma = read_vector(tensors, f"{name}.weight", self.shape.hidden)
        if gamma is None:
            raise BadArtifact(f"tensor {name}.weight is missing; the artifact is not a whole model")
        return gamma


def _together(kernels: Kernels, parts: Sequence[Projection], x: Floats) -> Floats:
    """The outputs of several projections side by side."""
    if len(parts) == 1:
        return parts[0].apply(kernels, x)
    return np.concatenate([part.apply(kernels, x) for part in parts], axis=1)
