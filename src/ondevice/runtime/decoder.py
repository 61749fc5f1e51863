"""Decoders of the Llama family on the kernels: Llama 2 and 3, Mistral, Qwen 2 and 3, SmolLM, Gemma; and with experts
Mixtral, Qwen-MoE and OLMoE.

Knows the architecture: pre-norm blocks, rotary positions, grouped queries, gated feed-forward. Knows nothing of
tokenizers, sampling, files or torch. A sequence's logits do not depend on what is beside it, on how its tokens are
cut into steps, or on threads: not in a single bit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput, OndeviceError, UnsupportedModel
from ondevice.kernels import CacheDtype, Kernels, Layer, LayerCache, Linear, Matrix, Places, Stack
from ondevice.kernels.planes import PlaneProducts
from ondevice.runtime.kv.paged import Branches, CachedSequence, PagedCache, places
from ondevice.runtime.moe.experts import Expert, Experts, read_dense, read_experts
from ondevice.runtime.projection import (
    Projection,
    Stored,
    Tensors,
    read_matrix,
    read_projection,
    read_vector,
    side_by_side,
)
from ondevice.runtime.rotary import tables
from ondevice.runtime.table import Table, read_table
from ondevice.runtime.weights.panels import PanelTable
from ondevice.runtime.weights.source import Key, WeightSource

Hook = Callable[[int, npt.NDArray[np.float32]], None]
Floats = npt.NDArray[np.float32]
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
_GATES = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, from its Hugging Face configuration. window: of sliding attention by layer, 0 for
    none."""

    layers: int
    hidden: int
    heads: int
    cached_heads: int
    head_size: int
    epsilon: float
    gate: str
    window: tuple[int, ...]
    positions: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """Raises UnsupportedModel for another architecture, BadArtifact where a size is missing."""
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UnsupportedModel(f"the decoder reads {', '.join(FAMILIES)}, not {family!r}")
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            layers = int(config["num_hidden_layers"])
            head_size = int(config.get("head_dim") or hidden // heads)
            cached = int(config.get("num_key_value_heads") or heads)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as problem:
            raise BadArtifact(f"config.json lacks a size of the decoder: {problem!r}") from problem
        if heads < 1 or cached < 1 or heads % cached or head_size % 16 or layers < 1:
            raise UnsupportedModel(
                f"{heads} heads over {cached} key-value heads of {head_size} in {layers} layers: heads must share "
                "key-value heads evenly and hold a multiple of 16 values"
            )
        act = str(config.get("hidden_activation") or config.get("hidden_act") or "silu")
        if family == "gemma" and act == "gelu":
            act = "gelu_pytorch_tanh"  # as transformers reads the first checkpoints
        if act not in _GATES:
            raise UnsupportedModel(f"activation {act!r} is not one of {', '.join(_GATES)}")
        return cls(
            layers, hidden, heads, cached, head_size, float(config.get("rms_norm_eps", 1e-6)), _GATES[act],
            _windows(config, layers), int(config.get("max_position_embeddings") or 2048),
        )  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One layer. joint: queries, keys and values in as few products as can be. query_norm, key_norm: of a head
    (Qwen 3), or of all heads together (OLMoE)."""

    attention_norm: Floats
    joint: list[Projection]
    query_norm: Floats | None
    key_norm: Floats | None
    output: Projection
    feed_norm: Floats
    feed: Expert | Experts


class Decoder:
    """Logits of the next token of sequences whose past is in a cache.

    tensors: stored tensors by their Hugging Face names; a `WeightSource` may have them in memory only while they are
    used. config: the Hugging Face configuration. context: longest sequence in tokens. cache_tokens: of all sequences
    together; None for one of the whole context.
    streams: whether weights of layers are only in memory while they are used.
    before_layer, after_layer: called in every step with a layer's number and the hidden states (tokens, hidden) that
    enter or leave it; None for no call, and then layers that are in memory run as one native call.
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
        self.kernels, self.config, self.shape = kernels, config, Shape.of(config)
        shape = self.shape
        self.context = min(context or shape.positions, shape.positions)
        gemma = config["model_type"] == "gemma"
        self._norm_offset = np.float32(1.0 if gemma else 0.0)
        self._embedding_scale = np.float32(np.sqrt(np.float32(shape.hidden))) if gemma else None
        self._planes = PlaneProducts(kernels)
        self.before_layer: Hook | None = None
        self.after_layer: Hook | None = None
        source = tensors if isinstance(tensors, WeightSource) else None
        self._hold = source.hold if source else _nothing
        self.table: Table | PanelTable = (
            source.table("model.embed_tokens") if source else read_table(tensors, "model.embed_tokens")
        )
        if self.table.columns != shape.hidden:
            raise BadArtifact(
                f"the embeddings have {self.table.columns} values, config.json says {shape.hidden}"
            )
        numbers = {int(match[1]) for name in tensors if (match := re.match(r"model\.layers\.(\d+)\.", name))}
        if numbers != set(range(shape.layers)):
            raise BadArtifact(f"{len(numbers)} layers are stored, config.json says {shape.layers}")
        self.blocks = [self._block(tensors, f"model.layers.{number}") for number in range(shape.layers)]
        self.final_norm = self._gamma(tensors, "model.norm", shape.hidden)
        self._heads = self._read_heads(tensors)
        self.cosine, self.sine = tables(config, shape.head_size, self.context)
        self.cache = PagedCache(
            cache_tokens or self.context, shape.layers, shape.cached_heads, shape.head_size, cache_dtype
        )
        self.streams = bool(source and source.streams_layers)
        self._stack = None if self.streams else self._whole()

    @property
    def vocabulary(self) -> int:
        """Rows of the logits."""
        return sum(head.rows for _, head in self._heads)

    def step(
        self,
        batch: Sequence[tuple[CachedSequence, Sequence[int]]],
        *,
        every: bool = False,
        last: Sequence[int] | None = None,
    ) -> list[Floats]:
        """Read the next tokens of each sequence; the logits after its last one, (1, vocabulary) each.

        every: after every token, (tokens, vocabulary). last: after so many of its last tokens, one or more, for each
        sequence. Raises BadInput for tokens outside the vocabulary, an empty
        part, and a sequence longer than the context; CacheFull where the cache has no room; BadInput or BadArtifact
        where weights cannot be read. Then no sequence has changed.
        """
        marks = [sequence.mark() for sequence, _ in batch]
        states = self.read(batch, every=every, last=last)
        if not states:
            return []
        try:
            logits = self.logits(np.concatenate(states))
        except OndeviceError:
            for (sequence, _), mark in zip(batch, marks):
                sequence.rollback(mark)
            raise
        return np.split(logits, np.cumsum([len(rows) for rows in states])[:-1])

    def read(
        self,
        batch: Sequence[tuple[CachedSequence, Sequence[int]]],
        *,
        every: bool = False,
        last: Sequence[int] | None = None,
        branches: Sequence[Branches] | None = None,
    ) -> list[Floats]:
        """Like `step`; but what the logits are made of, (1, hidden) each.

        branches: for each sequence, which of its last tokens are branches of a tree. Each of them sees its own past
        only, and the sequence does not go on to any before `CachedSequence.take`.
        """
        ids = [np.asarray(tokens, np.int64) for _, tokens in batch]
        if not batch:
            return []
        trees = branches or [Branches()] * len(batch)
        plain = [len(tokens) - len(tree) for tokens, tree in zip(ids, trees, strict=True)]
        if min(plain) < 1:
            raise BadInput("a part of the batch has no tokens")
        self._check(batch, ids, [count + tree.depth for count, tree in zip(plain, trees)])
        try:
            for (sequence, _), count, tree in zip(batch, plain, trees):
                sequence.reserve(count + tree.depth)
            states = self._states(batch, np.concatenate(ids).astype(np.int32), trees)
        except OndeviceError:
            for sequence, _ in batch:
                sequence.rollback(sequence.length)  # gives back what was reserved
            raise
        for (sequence, _), count in zip(batch, plain):
            sequence.advance(count)
        counts = last or [1] * len(ids)
        parts = np.split(states, np.cumsum([len(tokens) for tokens in ids])[:-1])
        return parts if every else [part[-count:] for part, count in zip(parts, counts, strict=True)]

    def _states(
        self,
        batch: Sequence[tuple[CachedSequence, Sequence[int]]],
        ids: npt.NDArray[np.int32],
        trees: Sequence[Branches],
    ) -> Floats:
        """The normalised hidden states after the last layer, (tokens, hidden)."""
        kernels, shape = self.kernels, self.shape
        where = places(((sequence, len(tokens)) for sequence, tokens in batch), trees)
        states = self.embed(ids)
        update: Floats | None = None
        if self._stack is not None and not self.before_layer and not self.after_layer:
            update = self._stack.run(states, where, self.cosine, self.sine, shape.head_size**-0.5)
            return kernels.rms_norm(states, self.final_norm, shape.epsilon, update=update)
        for number in range(shape.layers):
            self._call_hooks(number, states, update)
            update = self.layer(number, states, update, where)
        self._call_hooks(shape.layers, states, update)
        return kernels.rms_norm(states, self.final_norm, shape.epsilon, update=update)

    def embed(self, ids: npt.NDArray[np.int32]) -> Floats:
        """The states that enter the first layer, (tokens, hidden)."""
        states = self.table.embed(self.kernels, ids)
        if self._embedding_scale is not None:
            states *= self._embedding_scale
        return states

    def layer(
        self,
        number: int,
        states: Floats,
        update: Floats | None,
        where: Places,
        cache: LayerCache | None = None,
    ) -> Floats:
        """What a layer's feed-forward part gives, (tokens, hidden), to be added to states.

        states: (tokens, hidden), changed in place to what everything before that part leaves. update: of the layer
        before, which is added first; None where it is in the states. where: the tokens' places in the cache, which
        is the decoder's own unless another is given.
        """
        kernels, shape = self.kernels, self.shape
        block, cache = self.blocks[number], cache or self.cache.layers[number]
        normal = kernels.rms_norm(states, block.attention_norm, shape.epsilon, update=update)
        with self._hold((number, "joint")):
            joint = _together(kernels, block.joint, normal)
        by_head = block.query_norm is not None and block.query_norm.size == shape.head_size
        if not by_head:
            self._normalise_all(block, joint)
        kernels.remember(
            joint, shape.heads, cache, where, self.cosine, self.sine,
            query_gamma=block.query_norm if by_head else None, key_gamma=block.key_norm if by_head else None,
            epsilon=shape.epsilon,
        )  # fmt: skip
        mixed = kernels.attend(
            joint, shape.heads, cache, where, shape.head_size**-0.5, window=shape.window[number]
        )
        with self._hold((number, "output")):
            update = block.output.apply(kernels, mixed)
        normal = kernels.rms_norm(states, block.feed_norm, shape.epsilon, update=update)
        return self._feed(number, block.feed, normal)

    def _feed(self, number: int, feed: Expert | Experts, normal: Floats) -> Floats:
        if isinstance(feed, Experts):
            with self._hold((number, "feed")):
                return feed.apply(self.kernels, normal, self.shape.gate)
        with self._hold((number, "widen")):
            wide = feed.gated(self.kernels, normal, self.shape.gate)
        with self._hold((number, "narrow")):
            return feed.narrow.apply(self.kernels, wide)

    def _call_hooks(self, number: int, states: Floats, update: Floats | None) -> None:
        """Between layers number - 1 and number."""
        if self.before_layer or self.after_layer:
            whole = states.copy() if update is None else states + update
            if self.after_layer and number > 0:
                self.after_layer(number - 1, whole)
            if self.before_layer and number < self.shape.layers:
                self.before_layer(number, whole)

    def logits(self, states: Floats) -> Floats:
        """(tokens, vocabulary) of states that `read` gave; band by band where the head is in bands."""
        parts = []
        for key, head in self._heads:
            with self._hold(key):
                parts.append(head.apply(self.kernels, states))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def _whole(self) -> Stack | None:
        """The layers as one call, where each is a plain one: no experts, no low-rank products, norms by head."""
        layers = []
        for block, cache, window in zip(self.blocks, self.cache.layers, self.shape.window, strict=True):
            feed = block.feed
            if isinstance(feed, Experts) or len(block.joint) > 1 or len(feed.widen) > 1:
                return None
            parts = [block.joint[0], block.output, feed.widen[0], feed.narrow]
            by_head = block.query_norm is None or block.query_norm.size == self.shape.head_size
            if any(part.then for part in parts) or not by_head:
                return None
            joint, output, widen, narrow = (part.layer for part in parts)
            norms = block.attention_norm, block.query_norm, block.key_norm, block.feed_norm
            layers.append(Layer(*norms, joint, output, widen, narrow, cache, window))
        shape = self.shape
        return self.kernels.stack(
            layers, hidden=shape.hidden, heads=shape.heads, epsilon=shape.epsilon, gate=shape.gate
        )

    def _normalise_all(self, block: Block, joint: Floats) -> None:
        """Queries, and keys, of all heads together, where the model has such norms."""
        start = 0
        for gamma in (block.query_norm, block.key_norm):
            if gamma is not None:
                part = np.ascontiguousarray(joint[:, start : start + gamma.size])
                joint[:, start : start + gamma.size] = self.kernels.rms_norm(part, gamma, self.shape.epsilon)
                start += gamma.size

    def _check(
        self,
        batch: Sequence[tuple[CachedSequence, Sequence[int]]],
        ids: Sequence[npt.NDArray[np.int64]],
        sizes: Sequence[int],
    ) -> None:
        if len({id(sequence) for sequence, _ in batch}) != len(batch):
            raise BadInput("a sequence is in the batch twice; give its tokens in one part")
        for (sequence, _), tokens, size in zip(batch, ids, sizes):
            if tokens.min() < 0 or tokens.max() >= self.table.rows:
                raise BadInput(f"a token is outside the vocabulary of {self.table.rows}")
            if sequence.length + size > self.context:
                raise BadInput(
                    f"{sequence.length + size} tokens are more than the context of {self.context}; "
                    "shorten the text or open the model with a longer context"
                )

    def _block(self, tensors: Tensors, name: str) -> Block:
        shape, attention = self.shape, f"{name}.self_attn"
        joint = [read_projection(tensors, f"{attention}.{part}_proj") for part in "qkv"]
        widths = [shape.heads, shape.cached_heads, shape.cached_heads]
        if [part.rows for part in joint] != [heads * shape.head_size for heads in widths]:
            raise BadArtifact(f"{attention}: queries, keys and values do not have the sizes of config.json")
        query_norm = key_norm = None
        if f"{attention}.q_norm.weight" in tensors:
            together = tensors[f"{attention}.q_norm.weight"].to_dense().size != shape.head_size
            sizes = [heads * shape.head_size if together else shape.head_size for heads in widths[:2]]
            query_norm = self._gamma(tensors, f"{attention}.q_norm", sizes[0])
            key_norm = self._gamma(tensors, f"{attention}.k_norm", sizes[1])
        return Block(
            self._gamma(tensors, f"{name}.input_layernorm", shape.hidden),
            side_by_side(joint),
            query_norm,
            key_norm,
            read_projection(tensors, f"{attention}.o_proj"),
            self._gamma(tensors, f"{name}.post_attention_layernorm", shape.hidden),
            read_experts(tensors, name, self.config, self._planes) or read_dense(tensors, f"{name}.mlp"),
        )

    def _gamma(self, tensors: Tensors, name: str, size: int) -> Floats:
        gamma = read_vector(tensors, f"{name}.weight", size)
        if gamma is None:
            raise BadArtifact(f"tensor {name}.weight is missing; the artifact is not a whole model")
        return gamma + self._norm_offset if self._norm_offset else gamma

    def _read_heads(self, tensors: Tensors) -> list[tuple[Key, Projection]]:
        """The matrix that gives the logits, or its bands, and the stage of each."""
        own = any(name.startswith("lm_head.") for name in tensors)
        name = "lm_head" if own else "model.embed_tokens"
        if not own and isinstance(self.table, Table):
            if len(self.table.matrices) != 1:
                raise UnsupportedModel(
                    "an embedding table in bands cannot give logits; store it as one matrix"
                )
            return [(("head", 0), _tied(self.table.matrices[0], tensors.get(f"{name}.weight")))]
        if not isinstance(tensors, WeightSource) or f"{name}.weight" not in tensors:
            return [(("head", 0), read_projection(tensors, name))]
        heads = []
        for key, band in tensors.head(f"{name}.weight"):
            only = {**tensors, f"{name}.weight": band}
            heads.append(
                (
                    key,
                    read_projection(only, name) if own else _tied(read_matrix(only, f"{name}.weight"), band),
                )
            )
        return heads


def _tied(matrix: Matrix, stored: Stored | None) -> Projection:
    """A head that is the embedding table, or a band of it."""
    exact = stored is not None and stored.format.get("activations") == "float"
    return Projection(Linear((matrix,), int8=matrix.tiled and not exact))


def _nothing(key: Key) -> AbstractContextManager[None]:
    """Weights that are always there need not be held."""
    return _FREE


_FREE = nullcontext()


def _together(kernels: Kernels, parts: Sequence[Projection], x: Floats) -> Floats:
    """The outputs of several projections side by side."""
    if len(parts) == 1:
        return parts[0].apply(kernels, x)
    return np.concatenate([part.apply(kernels, x) for part in parts], axis=1)


def _windows(config: Mapping[str, Any], layers: int) -> tuple[int, ...]:
    """Of each layer; 0 where it attends to everything."""
    window = config.get("sliding_window") or 0
    if not window or config.get("use_sliding_window") is False:
        return (0,) * layers
    kinds = config.get("layer_types") or ["sliding_attention"] * layers
    return tuple(int(window) if kind == "sliding_attention" else 0 for kind in kinds)
