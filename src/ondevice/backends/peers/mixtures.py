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
from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.measure.apart import Arm, Opened, Outcome, side_by_side_apart
from ondevice.measure.sidebyside import drop_cached
from ondevice.measure.timing import Figure
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.moe.experts import Experts, Floats
from ondevice.runtime.moe.predictor import Foresight, PathPredictor
from ondevice.runtime.moe.trace import Choices, mixtures
from ondevice.runtime.weights.eviction import FrequencyOverDistance, LeastRecent
from ondevice.runtime.weights.experts import ExpertCache, experts_of
from ondevice.runtime.weights.extents import Extents
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


@dataclass(frozen=True)
class Race:
    """found: outcomes of the arms by name. whole: bytes of all experts at 8 bits. said: the storage, in a line."""

    found: dict[str, Outcome]
    whole: int
    said: str


def race(
    eight: Path, few: Path, profile: Path, texts: Sequence[Sequence[int]], choices: Choices | None, *,
    share: float, reads: float, repeats: int,
) -> Race:  # fmt: skip
    """A mixture of 8 bits and one whose experts have few, side by side: with all experts in memory, and with so large a
    share of the bytes at 8 bits, on demand and by a profile of paths. reads: seconds of a read of one expert of 8 bits,
    over those of a layer with all in memory: the storage is throttled to that. Raises BadInput where an arm failed."""
    artifact = Artifact(eight)
    sizes = [Extents(parts).nbytes for parts in experts_of(artifact.tensors).values()]
    alone = _outcomes({"all in memory": Arm(open_mixture, (eight, Way(), texts, choices))}, repeats)
    token = Figure.of(alone["all in memory"].parts["token"], "s").median
    layer, one = token / int(artifact.config["num_hidden_layers"]), sum(sizes) / len(sizes)
    called = Way(int(share * sum(sizes)), None, one / (reads * layer))
    told = replace(called, profile=profile)
    ways = {
        "on demand": (eight, called), "widths": (few, called), "paths": (eight, told), "full": (few, told),
        "all in memory": (eight, Way()), "all in memory, few bits": (few, Way()),
    }  # fmt: skip
    found = _outcomes({arm: Arm(open_mixture, (*way, texts, choices)) for arm, way in ways.items()}, repeats)
    said = (
        f"a layer computes {1e6 * layer:.0f} us, an expert of 8 bits has {one:.0f} bytes, the storage reads "
        f"{one / (reads * layer) / 1e6:.1f} MB/s, so an expert takes {reads:g} times a layer"
    )
    return Race(found, sum(sizes), said)


def _outcomes(arms: dict[str, Arm], repeats: int) -> dict[str, Outcome]:
    found = side_by_side_apart(arms, repeats, warmup=1)
    if failed := {name: it for name, it in found.items() if isinstance(it, str)}:
        raise BadInput(f"arms without an outcome: {failed}")
    return {name: it for name, it in found.items() if not isinstance(it, str)}
