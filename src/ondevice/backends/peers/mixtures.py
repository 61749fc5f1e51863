"""Mixtures of experts whose memory does not hold them all, in processes of their own: by every policy of their cache.

Arms for `measure.apart`: a call reads texts a token at a time and tells seconds of a token ("token"). Knows artifacts
and caches. Knows nothing of what the figures are for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Artifact
from ondevice.devices.storage import Storage, ThrottledStorage
from ondevice.kernels import Kernels
from ondevice.measure.apart import Opened
from ondevice.measure.sidebyside import drop_cached
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.moe.experts import Experts, Floats
from ondevice.runtime.moe.predictor import Foresight, PathPredictor
from ondevice.runtime.moe.trace import Choices, mixtures
from ondevice.runtime.weights.eviction import FrequencyOverDistance, LeastRecent
from ondevice.runtime.weights.experts import ExpertCache
from ondevice.runtime.weights.source import Resident, WeightSource


@dataclass(frozen=True)
class Way:
    """How experts get into memory. memory: bytes for them, None for all. profile: of paths, by which they are read
    ahead and kept; without one they are read when they are asked for, and the least recently used go. bandwidth: of
    the storage, bytes/s."""

    memory: int | None = None
    profile: str | Path | None = None
    bandwidth: float | None = None


def open_mixture(
    folder: str | Path, way: Way, texts: Sequence[Sequence[int]], choices: Choices | None = None
) -> Opened:
    """An artifact on our runtime, on one thread. choices: (tokens of all texts, layers, used), what its routers are
    made to choose; their own choice where there are none.

    The last word is a dict: likeliest tokens after each ("tokens"), bytes for experts ("memory"), and what the cache
    counted in the last call.
    """
    artifact, layers = Artifact(folder), 0
    drop_cached([Path(folder) / "model.safetensors"])
    source: WeightSource = Resident(artifact.tensors)
    used = int(artifact.config["num_experts_per_tok"])
    if way.memory is not None:
        storage: Storage = FileStorage()
        if way.bandwidth is not None:
            storage = ThrottledStorage(storage, way.bandwidth)
        layers = int(artifact.config["num_hidden_layers"])
        policy = LeastRecent() if way.profile is None else FrequencyOverDistance(layers)
        source = ExpertCache(artifact.tensors, way.memory, used=used, policy=policy, storage=storage)
    decoder = Decoder(source, artifact.config, Kernels(1), context=max(map(len, texts)))
    if choices is not None:
        _replay(decoder, choices)
    if way.profile is not None and isinstance(source, ExpertCache):
        found = mixtures(decoder)
        profile = PathPredictor.load(way.profile, [each.layer for each in found], found[0].count, used)
        foresight = Foresight(source, profile, learns=False)
        for each in found:
            each.listeners.append(foresight)
    written: list[int] = []
    counted: dict[str, Any] = {}

    def call() -> dict[str, float]:
        before = asdict(source.stats) if isinstance(source, ExpertCache) else {}
        written.clear()
        started = time.perf_counter()
        for text in texts:
            sequence = decoder.cache.sequence()
            for token in text:
                [logits] = decoder.step([(sequence, [token])])
                written.append(int(logits[0].argmax()))
            sequence.free()
        seconds = (time.perf_counter() - started) / len(written)
        if isinstance(source, ExpertCache):
            counted.update({name: value - before[name] for name, value in asdict(source.stats).items()})
        return {"token": seconds}

    def last() -> dict[str, Any]:
        memory = source.memory if isinstance(source, ExpertCache) else None
        return {"tokens": list(written), "memory": memory, **counted}

    return call, last


class _Replayed(Experts):
    """Experts whose router chooses what it is told; its weights are its own."""

    def route(self, kernels: Kernels, x: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        _, weights = super().route(kernels, x)
        return np.stack([next(self.told) for _ in x]), weights

    told: Iterator[npt.NDArray[np.int64]]


def _replay(decoder: Decoder, choices: Choices) -> None:
    """Have the routers choose what a trace says, from its start again when it ends."""

    def over(place: int) -> Iterator[npt.NDArray[np.int64]]:
        while True:
            yield from choices[:, place]

    for place, found in enumerate(mixtures(decoder)):
        replayed = _Replayed(**{name: getattr(found, name) for name in found.__dataclass_fields__})
        object.__setattr__(replayed, "told", over(place))
        decoder.blocks[found.layer] = replace(decoder.blocks[found.layer], feed=replayed)
