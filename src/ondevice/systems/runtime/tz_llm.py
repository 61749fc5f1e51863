"""TZ-LLM: a sealed decoder in a trusted world, whose weights come back while it reads the prompt.

Random weights of a published shape. Two processes *simulate* Arm TrustZone: encryption, pipeline and protocol are real,
isolation is what the system gives to processes. One core plays the accelerator (products of matrices), the other the
processor. The RK3588 is simulated from published figures, by the schedule that the real run obeys.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.artifact import Artifact, Contents, StoredTensor, write
from ondevice.devices.npu import CoDriver, SimNPU
from ondevice.errors import ProtocolViolation
from ondevice.measure.compare import Bar, Comparison, Evidence, absolute, ratio
from ondevice.measure.plaintext import find_in_files, find_in_process, samples_of
from ondevice.measure.timing import Figure
from ondevice.runtime.schedule.published import RK3588, first_token
from ondevice.runtime.schedule.restoration import POLICIES, Policy
from ondevice.runtime.tee import Block, SecureRegion
from ondevice.runtime.two_worlds import TwoWorlds, fit_prompt
from ondevice.runtime.weights.encrypted import seal
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

TINY = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 64, "vocab_size": 4096}  # fmt: skip
STORAGE = 300e6  # bytes/s that storage is throttled to, for all arms
COMPUTE = 0.85  # of the time that restoration alone takes: what the prompt's length is chosen for
PROMPT = 512  # tokens, of the simulated chip


@system("tz-llm")
def prove(scale: Scale) -> Evidence:
    """Time to the first token of every arm, where plaintext is, what is refused, and the RK3588 simulated."""
    shape = SHAPES["qwen3-0.6b"] | (TINY if scale.name == "tiny" else {})
    repeats, longest = {"tiny": (1, 64), "fast": (3, 2048), "full": (15, 2048)}[scale.name]
    ids = np.random.default_rng(scale.seed).integers(10, 4000, longest).tolist()
    with tempfile.TemporaryDirectory() as scratch:
        plain, sealed, key = (Path(scratch) / name for name in ("plain", "sealed", "key"))
        key.write_bytes(os.urandom(32))
        tensors = _write(plain, shape, scale.seed)
        write(sealed, seal(Artifact(plain), key.read_bytes()))
        start = partial(TwoWorlds, context=longest + 1, bandwidth=STORAGE)
        with start(sealed, key) as worlds, start(plain, None, protected=False) as bare:
            times, notes = _arms(worlds, bare, ids, repeats)
            worlds.answer(ids[:1])  # everything is decrypted
            samples = samples_of(tensors, seed=scale.seed)
            seen = find_in_process(worlds.normal_pid, samples) | find_in_files(sealed.iterdir(), samples)
            kept = find_in_process(worlds.trusted_pid, samples)
    slow = first_token(RK3588, PROMPT, "serial", accelerator=False)
    chip = {policy: first_token(RK3588, PROMPT, policy) for policy in POLICIES}
    saved, metric = 1 - chip["preempt"] / slow, f"RK3588, {PROMPT} tokens: time to the first token saved"
    said = ", ".join(f"{value:.1f} {policy}" for policy, value in chip.items())
    notes.append(f"RK3588, modelled seconds: {slow:.1f} serial without its accelerator, with it {said}")
    notes.append("two processes simulate TrustZone: nothing here is isolated by hardware")
    counted = [
        _counted("tensors whose plaintext is looked for", len(samples), absolute(">=", 200)),
        _counted("of them found in the normal world or in files", len(seen)),
        _counted("of them not found in the trusted world", len(samples) - len(kept)),
        _counted("attacks that were accepted", sum(_attacks())),
        Comparison(metric, "", None, saved, absolute(">=", 0.76), kind="modelled"),
    ]
    return Evidence(*times, *counted, notes=notes)


def _write(folder: Path, shape: dict[str, Any], seed: int) -> list[Any]:
    """The bytes of all tensors. Vectors are random too, so that there is something in them to look for."""
    config, made = random_decoder(shape, bits=8, seed=seed)
    random, tensors = np.random.default_rng(seed), dict[str, StoredTensor]()
    for name, it in made.items():
        noise = random.normal(0, 0.01, it.array.shape) if it.format["kind"] == "dense" else 0
        tensors[name] = StoredTensor(it.format, (it.array + noise).astype(it.array.dtype))
    write(folder, Contents(config, "{}", {"kind": "language"}, tensors))
    return [np.ascontiguousarray(it.array).reshape(-1).view(np.uint8) for it in tensors.values()]


def _arms(
    worlds: TwoWorlds, bare: TwoWorlds, ids: list[int], repeats: int
) -> tuple[list[Comparison], list[str]]:
    """Each arm in turn, after a run that leaves memory as the next one will use it."""
    prompt, restoring = fit_prompt(worlds, COMPUTE, ids)

    def run(which: TwoWorlds, policy: Policy, keep: float = 0.0) -> dict[str, Any]:
        which.give_back(keep)
        return which.answer(prompt, 1, policy)

    arms: dict[str, Callable[[], dict[str, Any]]] = {"all there": partial(worlds.answer, prompt)}
    arms |= {policy: partial(run, worlds, policy) for policy in POLICIES}
    arms |= {"20 % kept": partial(run, worlds, "preempt", 0.2), "not sealed": partial(run, bare, "preempt")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for _ in range(repeats):
        worlds.answer(prompt)
        bare.answer(prompt)
        for name, arm in arms.items():
            found[name].append(arm())
    seconds = {name: Figure.of([it["seconds"] for it in each], "s") for name, each in found.items()}
    lanes = [it["lanes"] for it in found["serial"]]
    busiest = [max(it["read"], it["alloc"] + it["decrypt"] + it["cpu"], it["npu"]) for it in lanes]
    ours, share = seconds["preempt"], seconds["all there"].median / restoring
    kinds = len({tuple(it["tokens"]) for each in found.values() for it in each})

    def faster(metric: str, baseline: Figure, figure: Figure, most: float) -> Comparison:
        return Comparison(f"first token, {metric}", "s", baseline, figure, ratio("<=", most))

    return [
        faster("pipelined against serial", seconds["serial"], ours, 0.70),
        faster("pipelined against the busiest of storage, processor, accelerator", Figure.of(busiest, "s"), ours, 1.25),
        faster("20 % kept decrypted against nothing", ours, seconds["20 % kept"], 0.92),
        faster("pipelined against the same not sealed", seconds["not sealed"], ours, 1.30),
        Comparison("computing takes, of restoring, at least", "", None, share, absolute(">=", 0.8)),
        Comparison("computing takes, of restoring, at most", "", None, share, absolute("<=", 1.2)),
        _counted("answers that differ", kinds - 1),
    ], [
        f"{len(prompt)} tokens, storage throttled to {STORAGE / 1e6:.0f} MB/s, restoring alone takes {restoring:.3f} s",
        *(f"{name}: first token after {figure}" for name, figure in seconds.items()),
        "serial, seconds of each: " + ", ".join(f"{lane} {value:.3f}" for lane, value in lanes[-1].items()),
    ]  # fmt: skip


def _attacks() -> Iterator[bool]:
    """Whether shadow jobs replayed, out of order, forged or issued twice were accepted, or blocks not adjacent."""
    for shadows in ([0, 0], [1], [9], [0, 1, 1]):
        driver, issued = CoDriver(SimNPU()), 0
        [driver.prepare() for _ in range(3)]
        with suppress(ProtocolViolation):
            for shadow in shadows:
                with driver.issued(shadow):
                    issued += 1
        yield issued == len(shadows)
    for start in (0, 8192, 4097):
        region = SecureRegion(1 << 20)
        region.extend_allocated(Block(0, 4096))
        with suppress(ProtocolViolation):
            region.extend_allocated(Block(start, 4096))
        yield region.allocated > 4096


def _counted(metric: str, value: float, bar: Bar | None = None) -> Comparison:
    return Comparison(metric, "", None, value, bar or absolute("<=", 0), kind="counted")
