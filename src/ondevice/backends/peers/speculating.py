"""Conversations on a decoder, with and without guesses: what is written, how long it takes, what it takes in memory.

Knows a folder of a model, one of heads, and tokens. Knows nothing of what the figures are for.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ondevice.kernels import PAGE, Kernels
from ondevice.measure.memory import own_peak
from ondevice.runtime.budget import resident_bytes
from ondevice.runtime.decode.heads import Heads, HeadsDraft
from ondevice.runtime.decode.memory_model import Generation, generation_memory
from ondevice.runtime.decode.replay import Recorder
from ondevice.runtime.decode.speculative import MOST, Speculation
from ondevice.runtime.decode.tree import LARGEST
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.weights.safetensors import Checkpoint

Talk = tuple[tuple[int, ...], ...]  # tokens of each turn of a user


@dataclass(frozen=True)
class Way:
    """nodes: of the tree; 0 for plain decoding. heads: that guess it. whole: the cache holds the longest context from
    the start. at_once: rows of logits. chunk: tokens of a prompt in a step. texts: side by side at most."""

    nodes: int = 0
    heads: int = 0
    whole: bool = False
    at_once: int = MOST + 1
    chunk: int = 512
    texts: int = 1


class Speaker:
    """A model's folder, ready to write in some way. answer: tokens of each turn."""

    def __init__(self, model: Path, heads: Path, way: Way, *, answer: int, threads: int) -> None:
        config = json.loads((model / "config.json").read_text())
        self.decoder = Decoder(
            Checkpoint(model), config, Kernels(threads),
            cache_tokens=(way.texts + 1) * int(config["max_position_embeddings"]),
        )  # fmt: skip
        self.way, self.answer, self.recorder, speculation = way, answer, Recorder(1), None
        hidden = self.decoder.shape.hidden
        self.heads = Heads.read(Checkpoint(heads), json.loads((heads / "config.json").read_text()), hidden)
        if way.nodes:
            self.heads = self.heads.first(way.heads)
            self.recorder = Recorder(way.nodes, rates=self.heads.rates)
            speculation = Speculation(HeadsDraft(self.heads, self.decoder, self.recorder), self.recorder)
        self.speculation = speculation
        self.engine = Engine(
            self.decoder, chunk=way.chunk, keep=way.texts, speculation=speculation, at_once=way.at_once
        )

    def talk(self, talks: Sequence[Talk]) -> list[list[int]]:
        """What is written in each, so many side by side; a turn goes on from the one before."""
        texts: list[list[int]] = [[] for _ in talks]
        for first in range(0, len(talks), self.way.texts):
            beside = range(first, min(first + self.way.texts, len(talks)))
            for turn in range(max(len(talks[each]) for each in beside)):
                going = {}
                for each in beside:
                    texts[each] += talks[each][turn]
                    going[self.engine.add(texts[each], limit=self.answer)] = each
                while self.engine.running:
                    for written in self.engine.step():
                        texts[going[written.text]].append(written.choice.token)
            while self.engine.kept.drop():
                pass
        return texts

    def counted(self, talks: Sequence[Talk]) -> int:
        """Bytes that the cache's pages, the kernels and all arrays take at most, the heads among them."""
        self.decoder.kernels.most_bytes()
        self.decoder.cache.most_bytes = 0
        tracemalloc.start()
        self.talk(talks)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        pages = self.decoder.cache.most_bytes
        if self.way.whole:
            scratch = -(-self.way.texts * self.way.nodes // PAGE) * PAGE
            tokens = self.way.texts * self.decoder.context + scratch
            pages = tokens // PAGE * self.decoder.cache.page_bytes
        heads = self.heads.nbytes if self.way.nodes else 0
        return pages + heads + self.decoder.kernels.most_bytes() + traced


def open_and_talk(model: Path, heads: Path, way: Way, talks: Sequence[Talk], answer: int) -> int:
    """For a process of its own: what writing adds to its resident bytes, heads included."""
    speaker = Speaker(model, heads, way, answer=answer, threads=1)
    speaker.decoder.step([(speaker.decoder.cache.sequence(), [0])])  # weights are there
    before = resident_bytes()
    speaker.talk(talks)
    return own_peak() - before + (speaker.heads.nbytes if way.nodes else 0)


def memory_error(speak: Callable[[Way], Speaker], how: Generation, count: int, seed: int) -> float:
    """The most that the memory model is off what is allocated, as a share of it, over so many drawn trees, contexts and
    numbers of texts."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(count):
        nodes, heads, texts = (
            int(rng.integers(4, LARGEST + 1)),
            int(rng.integers(2, 5)),  # one head alone has no tree so large
            int(rng.integers(1, 5)),
        )
        speaker = speak(Way(nodes, heads, texts=texts, chunk=64))
        # the first text is still written when the last prompt has been read
        context = max(PAGE * int(rng.integers(2, 6)), PAGE + speaker.answer)
        prompts = [
            (tuple(rng.integers(1, how.vocabulary, context - speaker.answer).tolist()),) for _ in range(texts)
        ]
        drawn = replace(how, context=context, texts=texts, chunk=64, at_once=MOST + 1)
        counted = speaker.counted(prompts)
        worst = max(worst, abs(generation_memory(drawn, nodes, heads).total / counted - 1))
    return worst


def unpacked(decoder: Decoder) -> int:
    """Panels of weights that a thread unpacks at a time."""
    return 3 if decoder.kernels.instruction_set == "avx512" else 1
