"""The arms of d2-moe: one mixture stored in several ways, and eight requests that go through each.

Knows a mixture, how its experts are quantised, and a buffer on a throttled storage. Knows no bars. Not itself a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ondevice.artifact import Artifact, Contents, write_files
from ondevice.compress.calibration import Calibration, Moments
from ondevice.compress.quantize.matrix import Inputs
from ondevice.compress.quantize.matryoshka import Matryoshka
from ondevice.compress.quantize.mixed import allocate
from ondevice.compress.quantize.quantize import layer_inputs, quantize_linear
from ondevice.data import corpora
from ondevice.devices.storage import ThrottledStorage
from ondevice.kernels import Kernels
from ondevice.layers.experts import GatedExpert, unfuse
from ondevice.layers.store import to_stored
from ondevice.layers.tied import TiedLinear, tie
from ondevice.measure.timeline import Timeline
from ondevice.models.model import Model, share
from ondevice.models.zoo import from_hugging_face
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.expert_memory import foresee
from ondevice.runtime.io import FileStorage
from ondevice.runtime.moe.nested import Need
from ondevice.runtime.moe.trace import mixtures
from ondevice.runtime.projection import Tensors
from ondevice.runtime.schedule.hebf import Job
from ondevice.runtime.weights.eviction import FrequencyOverDistance, LeastRecent
from ondevice.runtime.weights.experts import ExpertCache
from ondevice.runtime.weights.planes import Ordering, PlaneCache, hottest_first, least_for_planes, planes_of
from ondevice.runtime.weights.source import HeldTensor
from ondevice.train.bits import teach_bits
from ondevice.train.recipes.language import log_probability, stream

GROUP, CONTEXT, REQUESTS = 32, 256, 8
WIDTHS = (2, 3, 4)
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sizes:
    """texts: to calibrate on, of so many characters each. steps: of teaching. probe: tokens of a loss that widths are
    chosen by. judged: tokens of held-out text. prompt, written: tokens of each request."""

    texts: int
    steps: int
    probe: int
    judged: int
    prompt: int
    written: int


@dataclass(frozen=True)
class Texts:
    """Streams of tokens: to learn from, and held out."""

    learned: Ids
    judged: Ids


def texts_of(model: Model, sizes: Sizes, seed: int) -> Texts:
    learned = corpora.texts(corpora.make("train", sizes.texts, seed=seed))
    held = corpora.texts(corpora.make("test", 20, seed=seed))
    return Texts(stream(model.tokenizer, learned), stream(model.tokenizer, held)[: sizes.judged])


def small(model: Model) -> Model:
    """Of its kind with random weights and few of them, for tests."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 3,
             "num_attention_heads": 2, "num_key_value_heads": 1, "architectures": ["MixtralForCausalLM"]}  # fmt: skip
    torch.manual_seed(0)
    module: Any = unfuse(from_hugging_face(model.config | sizes)).eval().requires_grad_(False)
    module.lm_head = TiedLinear("model.embed_tokens")
    return replace(model, module=tie(module), config=module.config.to_dict())


def prepare(model: Model, folder: Path, sizes: Sizes, seed: int) -> tuple[dict[str, Artifact], Texts]:
    """Artifacts: "nested" with bit routers, "gptq2" to "gptq4", "int8", and "mixed", whose experts have the widths that
    EdgeMoE would choose where it may lose as much on the texts that it learns from as "nested" does."""
    texts = texts_of(model, sizes, seed)
    learned = corpora.texts(corpora.make("train", sizes.texts, seed=seed))
    calibration = Calibration([text[:1500] for text in learned])
    moments = calibration.moments(model)
    prepared: dict[int, Inputs] = {}

    def inputs(name: str, layer: nn.Linear) -> Inputs:
        seen: Moments | None = moments.get(name)
        if seen is None or not seen.count:
            return Inputs(torch.eye(layer.in_features, dtype=torch.float64))
        return prepared.setdefault(id(seen), layer_inputs(layer, seen))

    def at(bits: int) -> Model:
        method: Any = "gptq" if bits < 8 else "rtn"
        return model.replace(
            nn.Linear,
            "*.experts.*",
            by=lambda name, layer: quantize_linear(
                layer, bits, GROUP, inputs=inputs(name, layer), method=method
            ),
        )

    nested = Matryoshka("2..4", GROUP).apply(model, calibration)
    nested = teach_bits(nested, model.module, texts.learned, steps=sizes.steps, seed=seed)
    models = {"nested": nested, "int8": at(8)} | {f"gptq{bits}": at(bits) for bits in WIDTHS}
    artifacts = {name: _write(it, folder / name) for name, it in models.items()}
    probe = texts.learned[: sizes.probe]
    allowed = _surprise(open_whole(artifacts["nested"]), probe)
    options = {2: models["gptq2"], 4: models["gptq4"], 8: models["int8"]}
    mixed = _mixed(options, probe, allowed)
    return artifacts | {"mixed": _write(mixed, folder / "mixed")}, texts


def open_whole(artifact: Artifact, width: int | None = None) -> Decoder:
    """Everything in memory. width: read nested experts as far as so many bits, and run all tokens at them."""
    tensors: Tensors = artifact.tensors
    if width is not None:
        tensors = {
            name: HeldTensor({**it.format, "planes": width - WIDTHS[0]}, it.array)
            if it.format.get("planes")
            else it
            for name, it in tensors.items()
            if not name.endswith("bit_router.weight")
        }
    return Decoder(tensors, artifact.config, Kernels(1), context=CONTEXT, cache_tokens=REQUESTS * CONTEXT)


def perplexity(decoder: Decoder, ids: Ids) -> float:
    """Of a stream, in windows that are read one by one."""
    return math.exp(_surprise(decoder, ids))


def _surprise(decoder: Decoder, ids: Ids) -> float:
    """Nats a token."""
    total, count = 0.0, 0
    for start in range(0, len(ids) - 2, CONTEXT):
        window = [int(each) for each in ids[start : start + CONTEXT]]
        if len(window) < 2:
            break
        sequence = decoder.cache.sequence()
        logits = decoder.step([(sequence, window)], every=True)[0][:-1].astype(np.float64)
        sequence.rollback(0)
        peak = logits.max(axis=1)
        total += float((peak + np.log(np.exp(logits - peak[:, None]).sum(axis=1))).sum())
        total -= float(logits[np.arange(len(logits)), window[1:]].sum())
        count += len(window) - 1
    return total / count


def _mixed(options: Mapping[int, Model], probe: Ids, allowed: float) -> Model:
    """Each expert at 8, 4 or 2 bits by EdgeMoE's rule, losing at most so many nats a token."""
    trial = share(options[8].module)
    experts = {bits: it.layers(GatedExpert) for bits, it in options.items()}

    def loss(widths: Mapping[str, int]) -> float:
        for name, bits in widths.items():
            parent, _, leaf = name.rpartition(".")
            setattr(trial.get_submodule(parent), leaf, experts[bits][name])
        return -log_probability(trial, probe, CONTEXT) / (len(probe) - 2)

    names = list(experts[8])
    base = loss(dict.fromkeys(names, 8))
    widths = allocate(names, loss, max(0.0, allowed / base - 1))
    return options[8].with_modules({name: experts[bits][name] for name, bits in widths.items()})


def _write(model: Model, folder: Path) -> Artifact:
    folder.mkdir(parents=True)
    contents = Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module))
    write_files(folder, contents)
    return Artifact(folder)


def expert_bytes(artifact: Artifact) -> int:
    """Stored bytes of all experts, every width."""
    return sum(int(it.nbytes) for name, it in artifact.tensors.items() if ".experts." in name)


def memory_of(made: Mapping[str, Artifact], share: float, fewer: float) -> int:
    """Bytes of a buffer: a share of those of experts at 8 bits, or where experts are few pages what leaves nested ones
    room in `fewer` of it."""
    least = least_for_planes(planes_of(made["nested"].tensors))
    return max(int(share * expert_bytes(made["int8"])), int(least / fewer) + 1)


def balanced(jobs: Sequence[Job]) -> bool:
    """Whether reads take 0.7 to 1.3 of the time of products."""
    return 0.7 <= sum(job.read for job in jobs) / sum(job.compute for job in jobs) <= 1.3


def plane_bytes(artifact: Artifact) -> list[int]:
    """Of the base of an expert, and of each plane."""
    units = planes_of(artifact.tensors)
    return [sum(part.nbytes for part in units[0, 0, number]) for number in range(len(WIDTHS))]


@dataclass
class Served:
    """A decoder, whose experts may come from a throttled storage. cache: of its experts."""

    decoder: Decoder
    cache: ExpertCache | None
    timeline: Timeline = field(default_factory=Timeline)

    def requests(self, ids: Ids, sizes: Sizes) -> list[int]:
        """Eight requests of held-out text, read and then gone on with token by token, all in one batch; the likeliest
        tokens that the model would have written instead."""
        total, likeliest = sizes.prompt + sizes.written, list[int]()
        parts = [
            [int(each) for each in ids[first * total : (first + 1) * total]] for first in range(REQUESTS)
        ]
        sequences = [self.decoder.cache.sequence() for _ in parts]
        for sequence, part in zip(sequences, parts, strict=True):
            self.decoder.step([(sequence, part[: sizes.prompt])])
        for place in range(sizes.prompt, total):
            logits = self.decoder.step([(s, [part[place]]) for s, part in zip(sequences, parts, strict=True)])
            likeliest += [int(row[-1].argmax()) for row in logits]
        for sequence in sequences:
            sequence.rollback(0)
        return likeliest


def recorded(served: Served, ids: Ids, sizes: Sizes) -> list[list[tuple[Need, float]]]:
    """The planes that each layer needed in each step of eight requests, and the seconds of their products."""
    found: list[list[tuple[Need, float]]] = []
    last: list[int] = []

    def worked(layer: int, need: Need, seconds: float) -> None:
        if not last or last[0] != layer or any(need[:2] == other[:2] for other, _ in found[-1]):
            found.append([])
        last[:] = [layer]
        found[-1].append((need, seconds))

    feeds = [feed.nested for feed in mixtures(served.decoder) if feed.nested is not None]
    for feed in feeds:
        feed.worked.append(worked)
    served.requests(ids, sizes)
    for feed in feeds:
        feed.worked.remove(worked)
    layers, prompts = len(feeds), REQUESTS
    return found[layers * prompts :]  # steps of the whole batch only


def serve(
    artifact: Artifact,
    memory: int,
    bandwidth: float,
    *,
    kind: str,
    order: Ordering = hottest_first,
) -> Served:
    """kind: "planes" in nested bits; "edge" with guesses and frequency over distance; "demand" least recently used."""
    storage, timeline = ThrottledStorage(FileStorage(), bandwidth), Timeline()
    layers, used = int(artifact.config["num_hidden_layers"]), int(artifact.config["num_experts_per_tok"])
    cache: ExpertCache
    if kind == "planes":
        cache = PlaneCache(
            artifact.tensors, memory, layers=layers, order=order, storage=storage, timeline=timeline
        )
    else:
        policy = FrequencyOverDistance(layers) if kind == "edge" else LeastRecent()
        cache = ExpertCache(
            artifact.tensors, memory, used=used, policy=policy, storage=storage, timeline=timeline
        )
    decoder = Decoder(cache, artifact.config, Kernels(1), context=CONTEXT, cache_tokens=REQUESTS * CONTEXT)
    if kind == "edge":
        foresee(decoder, cache)
    return Served(decoder, cache, timeline)
