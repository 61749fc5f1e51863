"""Decoders larger than their memory, each in a process confined to a limit: ours by every policy, and llama.cpp mapped.

Arms for `measure.apart`: a call reads a prompt and writes greedily, and tells seconds of a step of the prompt ("step")
and of a token ("token"). Knows artifacts, GGUF files and cgroups. Knows nothing of what the figures are for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ondevice.artifact import Artifact
from ondevice.devices.storage import Storage, ThrottledStorage, Ticket
from ondevice.errors import BadInput
from ondevice.kernels import PAGE, Kernels
from ondevice.measure.apart import Opened
from ondevice.measure.confine import Confined
from ondevice.measure.sidebyside import drop_cached
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decode.memory_model import Generation, generation_memory
from ondevice.runtime.decode.replay import Trace, replay
from ondevice.runtime.decode.tree import Rates
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage, huge_pages
from ondevice.runtime.residency import Locking, measure_rates, plan_residency
from ondevice.runtime.weights.source import Mapped, WeightSource


@dataclass(frozen=True)
class Load:
    """What an arm does. prompt: tokens that are read, so many in a step. tokens: that are written after it."""

    prompt: int = 16
    step: int = 64
    tokens: int = 16
    threads: int = 2

    @property
    def context(self) -> int:
        return self.prompt + self.tokens + 1

    @property
    def steps(self) -> list[list[int]]:
        """The prompt, step by step."""
        ids = [10 + number % 1000 for number in range(self.prompt)]
        return [ids[at : at + self.step] for at in range(0, self.prompt, self.step)]


@dataclass(frozen=True)
class Guesses:
    """Speculation by a record: trees of so many nodes, of heads with these rates, that came true as the trace says."""

    trace: Trace
    rates: Rates
    nodes: int


@dataclass(frozen=True)
class Policy:
    """How weights get into memory. mapped: by the system; else streamed, with this locking, ahead or not."""

    locking: Locking | Literal["mapped"] = "balanced"
    prefetch: bool = True


def open_native(
    folder: str | Path,
    policy: Policy,
    load: Load,
    limit: int,
    confined: Confined | None = None,
    bandwidth: float | None = None,
    guesses: Guesses | None = None,
) -> Opened:
    """An artifact on our runtime within so many bytes. bandwidth: of a storage throttled to it, bytes/s. guesses:
    tokens are written several in a pass, as a record of another model says.

    The last word is a dict: tokens written; bytes read a pass ("read") and seconds of a pass in which the disk was
    busy, computation waited, or went on; of what is streamed the plan's bytes, the rate of reads, and the seconds of a
    token that were expected.
    """
    if confined:
        confined.enter()
    artifact, kernels, timeline = Artifact(folder), Kernels(load.threads), Timeline()
    context, extra = load.context, 0
    if guesses:  # a pass may write beyond; heads, candidates and more logits are not among the weights
        context += len(guesses.rates) + 1
        how = Generation.of(artifact.config, context=0)
        taken = generation_memory(how, guesses.nodes, len(guesses.rates))
        extra = taken.candidates + taken.heads + 8 * (guesses.nodes + 1) * how.vocabulary
    drop_cached([Path(folder) / "model.safetensors"])
    facts: dict[str, Any] = {}
    source: WeightSource
    if policy.locking == "mapped":
        source = Mapped(artifact.tensors)
    else:
        storage: Storage = FileStorage()
        if bandwidth is not None:
            storage = ThrottledStorage(storage, bandwidth)
        plan = plan_residency(
            artifact.tensors, artifact.config, limit - extra, context=context, locking=policy.locking
        )
        source = plan.open(artifact.tensors, storage=storage, prefetch=policy.prefetch, timeline=timeline)
        rates = measure_rates(plan, source, kernels)
        facts = {"streamed": plan.streamed, "locked": plan.locked, "ring": plan.ring, "fixed": plan.fixed}
        facts |= {"read_bandwidth": rates.read, "expected": plan.seconds(rates), "direct": rates.direct}
    decoder = Decoder(
        source, artifact.config, kernels, context=context, cache_tokens=context + PAGE if guesses else None
    )
    sequence, written = decoder.cache.sequence(), list[int]()

    def step(tokens: list[int]) -> int:
        [logits] = decoder.step([(sequence, tokens)])
        return int(logits[0].argmax())

    def begin() -> None:
        sequence.free()
        timeline.spans.clear()
        facts["before"] = source.bytes_read

    def last() -> dict[str, Any]:
        passes = load.tokens + len(load.steps)
        found = {lane: timeline.busy(lane) / passes for lane in ("disk", "wait", "compute")}
        read = (source.bytes_read - facts.pop("before")) / passes
        return facts | found | {"read": read, "tokens": list(written)}

    if guesses is None:
        return _timed(step, begin, load, written), last

    def guessed() -> dict[str, float]:
        begin()
        prompt = [token for part in load.steps for token in part]
        seconds, tokens = replay(decoder, prompt, guesses.trace, guesses.rates, guesses.nodes, load.tokens)
        return {"token": seconds / tokens}

    return guessed, last


def open_mapped_llama_cpp(gguf: str | Path, load: Load, confined: Confined | None = None) -> Opened:
    """A GGUF file on llama.cpp, mapped and not repacked (repacked it does not load within less than twice its size)."""
    if confined:
        confined.enter()
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    drop_cached([gguf])
    settings = llama_cpp.llama_model_default_params()
    settings.load_mode, settings.use_extra_bufts = llama_cpp.LLAMA_LOAD_MODE_MMAP, False
    model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(gguf), settings)
    sizes = llama_cpp.llama_context_default_params()
    sizes.n_ctx, sizes.n_batch, sizes.n_ubatch = max(64, load.context), load.step, load.step
    sizes.n_threads = sizes.n_threads_batch = load.threads
    context: Any = model and llama_cpp.llama_init_from_model(model, sizes)
    if not context:
        raise BadInput(f"llama.cpp cannot open {gguf}")
    memory = llama_cpp.llama_get_memory(context)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    written: list[int] = []

    def step(tokens: list[int]) -> int:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise BadInput("llama.cpp cannot decode")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(np.ctypeslib.as_array(logits, (vocabulary,)).argmax())

    call = _timed(step, lambda: llama_cpp.llama_memory_clear(memory, True), load, written)
    return call, lambda: {"tokens": list(written), "quiet": bool(quiet)}


def open_disk(path: str | Path) -> Opened:
    """Direct reads of a whole file into a ring of huge pages, and nothing beside: what the disk gives ("bandwidth",
    bytes/s)."""
    path, storage, block = Path(path), FileStorage(), 8 << 20
    size, memory = path.stat().st_size, [huge_pages(block) for _ in range(4)]

    def call() -> dict[str, float]:
        going: deque[Ticket] = deque()
        started = time.perf_counter()
        for number, offset in enumerate(range(0, size, block)):
            if len(going) == len(memory):
                going.popleft().wait()
            into = memory[number % len(memory)]
            going.append(storage.read(path, offset, min(block, size - offset), into))
        while going:
            going.popleft().wait()
        return {"bandwidth": size / (time.perf_counter() - started)}

    return call, dict


def _timed(
    step: Callable[[list[int]], int], begin: Callable[[], object], load: Load, written: list[int]
) -> Callable[[], dict[str, float]]:
    def call() -> dict[str, float]:
        begin()
        started = time.perf_counter()
        for part in load.steps:
            written[:] = [step(part)]
        read = time.perf_counter()
        for _ in range(load.tokens):
            written.append(step(written[-1:]))
        ended = time.perf_counter()
        return {"step": (read - started) / len(load.steps), "token": (ended - read) / load.tokens}

    return call


def read_ahead(path: str | Path) -> int | None:
    """Bytes that the system reads ahead on the disk of a file, which is what a mapped file's speed hangs on; None
    where it does not say."""
    for folder in _devices(os.stat(path).st_dev):
        setting = folder / "queue" / "read_ahead_kb"
        if setting.exists():
            return int(setting.read_text()) * 1024
    return None


def _devices(number: int) -> Iterator[Path]:
    """A device and, of a partition, the disk that it is on."""
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    yield device
    yield device.resolve().parent
