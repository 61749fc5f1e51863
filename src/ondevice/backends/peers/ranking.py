"""Ways to rank the same candidates on the same weights, each in a process of its own: all at once in memory, and a
layer at a time from storage.

Arms for `measure.apart`. Knows artifacts of decoders whose vocabulary is numbers, and candidates of random tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.artifact import Artifact
from ondevice.kernels import Kernels
from ondevice.measure.apart import Opened
from ondevice.runtime.projection import Stored
from ondevice.runtime.ranking.layered import DecoderLayers
from ondevice.runtime.ranking.ranker import select
from ondevice.runtime.weights.source import Resident


@dataclass(frozen=True)
class Load:
    """Candidates of so many tokens each; places among them."""

    candidates: int
    tokens: int
    places: int
    threads: int = 2
    seed: int = 0


def open_ranking(folder: str | Path, load: Load, streamed: bool) -> Opened:
    """streamed: two layers in memory at a time and candidates in chunks; else all weights and all candidates. The last
    word is the candidates that were chosen."""
    artifact = Artifact(folder)
    tensors: dict[str, Stored] = dict(artifact.tensors) if streamed else dict(Resident(artifact.tensors))
    model = DecoderLayers(
        tensors, artifact.config, Kernels(load.threads), answers=(1, 2), longest=load.tokens
    )
    random = np.random.default_rng(load.seed)
    vocabulary = artifact.config["vocab_size"]
    texts = random.integers(0, vocabulary, (load.candidates, load.tokens)).tolist()
    chosen: list[Any] = []

    def run() -> None:
        chunk = {} if streamed else {"chunk": load.candidates * load.tokens}
        chosen[:] = select(model, texts, load.places, **chunk).best

    return run, lambda: list(chosen)
