"""FlexInfer: a decoder larger than its memory, read ahead from storage, with what fits locked evenly over its layers.

Random weights of a published shape (speed does not depend on values). On the real disk every arm runs in a process that
a memory cgroup holds to one limit; what is only about the order of reads runs on a storage throttled to a stated speed.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ondevice.artifact import Artifact
from ondevice.backends.peers.offloading import Load, Policy, open_native, read_ahead
from ondevice.errors import BadInput
from ondevice.measure.apart import Arm, Outcome, side_by_side_apart
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.confine import confine
from ondevice.measure.memory import call_fresh
from ondevice.measure.timing import Figure
from ondevice.runtime.residency import plan_residency
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

POLICIES = {
    "mapped": Policy("mapped"),
    "synchronous": Policy("none", prefetch=False),
    "prefetch": Policy("none"),
    "prefetch, layers locked": Policy("layerwise"),
    "full": Policy("balanced"),
}
THROTTLED = {
    "synchronous": Policy("balanced", prefetch=False),
    "layers locked": Policy("layerwise"),
    "full": Policy("balanced"),
}
BARS = {0.8: 5.0, 0.5: 2.5, 0.2: 1.5}  # share of the body in memory: tokens/s over the mapped arm's
AMPLE = 64 * 10**9  # bytes: a limit that holds everything
TINY = {"num_hidden_layers": 8, "vocab_size": 2048, "hidden_size": 512, "intermediate_size": 1536}


@system("flexinfer")
def prove(scale: Scale) -> Evidence:
    """All arms on one pack: at shares of the body on the real disk in cgroups, and on a throttled storage."""
    shape = SHAPES["qwen3-0.6b"] | (TINY if scale.name == "tiny" else {})
    repeats, tokens = {"tiny": (1, 0), "fast": (3, 8), "full": (5, 16)}[scale.name]
    with tempfile.TemporaryDirectory() as scratch:
        pack = Path(scratch) / "pack"
        write_random(pack, shape, bits=8, seed=scale.seed)
        comparisons, notes = _throttled(pack, repeats)
        if scale.name != "tiny":
            notes.append(
                f"the disk reads {read_ahead(pack / 'model.safetensors')} bytes ahead for a mapped file"
            )
            for share, bar in BARS.items():
                of_share, more = _on_disk(pack, share, repeats, bar, Load(tokens=tokens))
                comparisons, notes = comparisons + of_share, notes + more
    return Evidence(*comparisons, notes=notes)


def _sizes(pack: str, share: float, load: Load) -> tuple[int, int]:
    """Of a limit that holds a share of the layers' matrices and all else (process, head, cache, a step), and of what
    is streamed within it."""
    artifact = Artifact(pack)
    plan = plan_residency(artifact.tensors, artifact.config, AMPLE, context=load.context)
    head = sum(stage.nbytes for stage in plan.stages if stage.key[0] == "head")
    limit = plan.fixed + head + int(share * (plan.weights - head))
    return limit, plan_residency(artifact.tensors, artifact.config, limit, context=load.context).streamed


def _on_disk(
    pack: Path, share: float, repeats: int, bar: float, load: Load
) -> tuple[list[Comparison], list[str]]:
    limit = call_fresh(_sizes, str(pack), share, load)[0][0]
    with ExitStack() as cgroups:
        arms = {
            name: Arm(open_native, (pack, policy, load, limit, cgroups.enter_context(confine(limit))))
            for name, policy in POLICIES.items()
        }
        found = _all(side_by_side_apart(arms, repeats, warmup=1, timeout=300))
    at, speed = f"{share:.0%} of the body", {name: _rate(it) for name, it in found.items()}
    full, expected = found["full"], found["full"].last["expected"]
    off = abs(1 / speed["full"].median / expected - 1)
    comparisons = [
        _faster(at, speed, "mapped", bar),
        Comparison(f"{at}: peak memory", "bytes", limit, full.peak_bytes, ratio("<=", 1.05)),
        Comparison(f"{at}: seconds a token off what was expected", "", None, off, absolute("<=", 0.15)),
        _same_tokens(at, found),
    ]
    if share == 0.5:
        comparisons.append(_faster(at, speed, "prefetch", 1.6))
    notes = [
        f"{at}, limit {limit / 1e6:.0f} MB, {name}: {speed[name]}, {it.last['read'] / 1e6:.0f} MB read a pass, peak "
        f"{it.peak_bytes / 1e6:.0f} MB" for name, it in found.items()
    ]  # fmt: skip
    return comparisons, notes


def _throttled(pack: Path, repeats: int) -> tuple[list[Comparison], list[str]]:
    """Steps of a prompt, on one thread, on a storage that reads what is streamed in the time that a step computes."""
    load = Load(prompt=256, step=128, tokens=1, threads=1)
    [alone] = _all(
        side_by_side_apart({"": Arm(open_native, (pack, Policy(), load, AMPLE))}, repeats, warmup=1)
    ).values()
    compute = Figure.of(alone.parts["step"], "s").median
    limit, streamed = call_fresh(_sizes, str(pack), 0.5, load)[0]
    arms = {
        name: Arm(open_native, (pack, policy, load, limit, None, streamed / compute))
        for name, policy in THROTTLED.items()
    }
    found = _all(side_by_side_apart(arms, repeats, warmup=1, timeout=300))
    steps = {
        name: Figure.of([1 / each for each in it.parts["step"]], "steps/s") for name, it in found.items()
    }
    said = f"throttled to {streamed / compute / 1e6:.0f} MB/s"
    comparisons = [
        _faster(said, steps, "synchronous", 1.6),
        _faster(said, steps, "layers locked", 1.15),
        _same_tokens(said, found | {"resident": alone}),
    ]
    return comparisons, [f"{said}, {name}: {figure}" for name, figure in steps.items()]


def _faster(where: str, arms: dict[str, Figure], baseline: str, bar: float) -> Comparison:
    metric = f"{where}: full against {baseline}"
    return Comparison(metric, arms["full"].unit, arms[baseline], arms["full"], ratio(">=", bar))


def _same_tokens(where: str, found: dict[str, Outcome]) -> Comparison:
    kinds = float(len({tuple(it.last["tokens"]) for it in found.values()}))
    return Comparison(f"{where}: answers that differ", "", None, kinds - 1, absolute("<=", 0), kind="counted")


def _rate(outcome: Outcome) -> Figure:
    return Figure.of([1 / seconds for seconds in outcome.parts["token"]], "tokens/s")


def _all(outcomes: dict[str, Any]) -> dict[str, Outcome]:
    """The outcomes. BadInput names the arms that have none."""
    if failed := {name: it for name, it in outcomes.items() if isinstance(it, str)}:
        raise BadInput(f"arms without an outcome: {failed}")
    return outcomes
