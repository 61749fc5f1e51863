"""Decoders and encoders of the runtime, a layer at a time and without a past: what `ranker` selects with.

Knows architectures, heads that give one score, and how a layer's weights come. Knows nothing of tokenizers, nor of who
is selected. All layers use the same few pages of a cache, as what a layer remembers is of no use to the next; where
weights lie in a file as kernels read them, two layers of them are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.devices.storage import Storage
from ondevice.errors import BadInput, UnsupportedModel
from ondevice.kernels import PAGE, Kernels, LayerCache, Places
from ondevice.runtime.decoder import Decoder, Shape
from ondevice.runtime.encoder import Encoder
from ondevice.runtime.projection import Stored, Tensors
from ondevice.runtime.ranking.ranker import Floats, Ids, Scores
from ondevice.runtime.table import Table, read_table
from ondevice.runtime.weights.panels import PanelTable
from ondevice.runtime.weights.parts import stages_of
from ondevice.runtime.weights.source import Key, WeightSource
from ondevice.runtime.weights.streamed import Streamed, ring_least

_ROLES = ("joint", "output", "widen", "narrow", "feed")


class DecoderLayers:
    """A decoder that scores a text by its last token: by a head of one row (`score`, as transformers' ...
    ForSequenceClassification have it), or by how much likelier it finds one answer than another.

    answers: the tokens of yes and no, for a decoder without such a head. storage: that reads, and decrypts, the
    weights. Raises UnsupportedModel for a head of several rows, BadInput where answers are needed and not given.
    """

    def __init__(
        self,
        tensors: Tensors,
        config: Mapping[str, Any],
        kernels: Kernels,
        *,
        answers: tuple[int, int] | None = None,
        storage: Storage | None = None,
        longest: int | None = None,
    ) -> None:
        shape = Shape.of(config)
        self._direction = _direction(tensors, kernels, shape.hidden, answers)
        self._layers = _Layers(tensors, shape.layers, storage)
        self._decoder = Decoder(self._layers, config, kernels, context=longest, cache_tokens=1)
        self._pool = LayerCache.empty(1, shape.cached_heads, shape.head_size, "float16")
        self.layers, self.longest = shape.layers, self._decoder.context

    def embed(self, texts: Sequence[Ids]) -> Floats:
        return self._decoder.embed(np.concatenate([np.asarray(text, np.int32) for text in texts]))

    def hold(self, number: int) -> AbstractContextManager[None]:
        return self._layers.layer(number)

    def run(self, number: int, states: Floats, lengths: Sequence[int]) -> None:
        pages = [-(-length // PAGE) for length in lengths]
        if len(self._pool.pool) < sum(pages):
            shape = self._decoder.shape
            self._pool = LayerCache.empty(sum(pages), shape.cached_heads, shape.head_size, "float16")
        tables = np.zeros((len(lengths), max(pages)), np.int32)
        for row, (first, count) in enumerate(zip(np.cumsum(pages) - pages, pages)):
            tables[row, :count] = np.arange(first, first + count)
        where = Places(
            np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            tables,
        )
        states += self._decoder.layer(number, states, None, where, self._pool)

    def scores(self, states: Floats, lengths: Sequence[int]) -> Scores:
        last = np.ascontiguousarray(states[np.cumsum(lengths) - 1])
        decoder = self._decoder
        normal = decoder.kernels.rms_norm(last, decoder.final_norm, decoder.shape.epsilon)
        return _sigmoid((normal * self._direction).sum(1, dtype=np.float64))


class EncoderLayers:
    """An encoder of the BERT family with a classification head of one row, which reads the first token.

    separator: the token after which BERT's second segment begins; None for one segment. Raises UnsupportedModel for
    another head.
    """

    def __init__(
        self, tensors: Tensors, config: Mapping[str, Any], kernels: Kernels, *, separator: int | None = None
    ) -> None:
        self._encoder = Encoder(tensors, config, kernels)
        if self._encoder.head is None or self._encoder.head[1].rows != 1:
            raise UnsupportedModel("to rank, an encoder needs a classification head that gives one score")
        self._separator = separator
        self.layers, self.longest = len(self._encoder.layers), self._encoder.max_tokens

    def embed(self, texts: Sequence[Ids]) -> Floats:
        return self._encoder.embed(texts, separator=self._separator)

    def hold(self, number: int) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, number: int, states: Floats, lengths: Sequence[int]) -> None:
        self._encoder.run(number, states, lengths)

    def scores(self, states: Floats, lengths: Sequence[int]) -> Scores:
        first = np.ascontiguousarray(states[np.cumsum(lengths) - lengths])
        return _sigmoid(self._encoder.classify(first)[:, 0].astype(np.float64))


class _Layers(WeightSource):
    """Tensors of which a layer's are in memory as long as the layer is held, used as often as one likes."""

    def __init__(self, tensors: Tensors, layers: int, storage: Storage | None) -> None:
        stages = [stage for stage in stages_of(tensors, layers) if stage.key[0] != "head" and stage.parts]
        self._keys = [(number, role) for number in range(layers) for role in _ROLES]
        largest = max(
            (
                sum(ring_least([stage], ()) for stage in group)
                for _, group in groupby(stages, lambda it: it.key[0])
            ),
            default=0,
        )
        self._source = Streamed(tensors, stages, locked=(), ring_bytes=2 * largest, storage=storage)

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        return self._source.bytes_read

    @property
    def bytes_resident(self) -> int:  # type: ignore[override]
        return self._source.bytes_resident

    streams_layers = True

    @contextmanager
    def layer(self, number: int) -> Iterator[None]:
        with ExitStack() as held:
            for key in self._keys:
                if key[0] == number:
                    held.enter_context(self._source.hold(key))
            yield

    def hold(self, key: Key) -> AbstractContextManager[None]:
        return nullcontext()

    def head(self, name: str) -> Sequence[tuple[Key, Stored]]:
        return []

    def table(self, name: str) -> Table | PanelTable:
        return self._source.table(name)

    def __getitem__(self, name: str) -> Stored:
        return self._source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def _direction(
    tensors: Tensors, kernels: Kernels, hidden: int, answers: tuple[int, int] | None
) -> npt.NDArray[np.float32]:
    """What a normalised state is multiplied by to give a score before the sigmoid, (hidden,)."""
    if "score.weight" in tensors:
        weight = np.asarray(tensors["score.weight"].to_dense(), np.float32)
        if weight.shape != (1, hidden):
            raise UnsupportedModel(
                f"to rank, a model needs a head that gives one score, not {weight.shape[0]}"
            )
        return np.array(weight[0], np.float32)
    if answers is None:
        raise BadInput("this model has no head for scores; say which tokens mean yes and no")
    name = "lm_head" if "lm_head.weight" in tensors else "model.embed_tokens"
    yes, no = read_table(tensors, name).embed(kernels, np.array(answers, np.int32))
    return np.asarray(yes - no, np.float32)


def _sigmoid(values: npt.NDArray[np.float64]) -> Scores:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))
