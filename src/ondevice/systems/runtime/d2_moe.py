"""D2MoE: experts in nested bits; each token takes as many as a router of bits says, plane by plane from storage.

The quality model is `moe-tiny` on text that it was not trained on. All arms serve the same eight requests in one batch,
with the same bytes for experts, on a storage throttled so that an expert of 8 bits takes 1.5 times as long as a layer
computes. EdgeMoE's arm may lose as much as nested experts do, measured on the texts that its widths are chosen by.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from ondevice.artifact import Artifact
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import Figure
from ondevice.models.load import load
from ondevice.runtime.moe.nested import Need
from ondevice.runtime.schedule.hebf import Job, by_id, hebf, johnson, optimum, simulate
from ondevice.runtime.weights.planes import by_number, hottest_first
from ondevice.systems import nested_arms as arms
from ondevice.systems.nested_arms import Ids, Served, Sizes
from ondevice.systems.registry import Scale, system

SHARE = 0.30  # of the bytes of all experts at 8 bits that a buffer has
FEWER = 0.67  # of that
READS = 1.5  # seconds to read an expert of 8 bits, over seconds of a layer
INSTANCES = 200
Made = dict[str, Artifact]
Found = tuple[list[Comparison], list[str]]
SIZES = {
    "tiny": Sizes(texts=10, steps=2, probe=256, judged=600, prompt=8, written=4),
    "fast": Sizes(texts=120, steps=80, probe=2048, judged=6000, prompt=16, written=64),
    "full": Sizes(texts=300, steps=200, probe=4096, judged=20000, prompt=32, written=96),
}


@system("d2-moe")
def prove(scale: Scale) -> Evidence:
    """Perplexities and bytes of every width, then throughput, orders of reads simulated and run."""
    sizes, model = SIZES[scale.name], load("moe-tiny")
    model = arms.small(model) if scale.name == "tiny" else model
    with tempfile.TemporaryDirectory() as scratch:
        made, texts = arms.prepare(model, Path(scratch), sizes, scale.seed)
        comparisons, notes = _quality(made, texts.judged)
        repeats = {"tiny": 1, "fast": 5, "full": 9}[scale.name]
        for part in (_race, _orders):
            more, said = part(made, texts.judged, sizes, repeats)
            comparisons, notes = comparisons + more, notes + said
    return Evidence(*comparisons, notes=notes)


def _quality(made: Made, judged: Ids) -> Found:
    comparisons, plain = [], {name: arms.perplexity(arms.open_whole(it), judged) for name, it in made.items()}
    for width in arms.WIDTHS:
        ours, bar = arms.perplexity(arms.open_whole(made["nested"], width), judged), ratio("<=", 1.05)
        metric = f"perplexity at {width} bits, nested against GPTQ of that width"
        comparisons.append(Comparison(metric, "", plain[f"gptq{width}"], ours, bar))
    copies = float(sum(arms.expert_bytes(made[f"gptq{width}"]) for width in arms.WIDTHS))
    comparisons += [
        Comparison("perplexity, widths by token against 8 bits", "", plain["int8"], plain["nested"], ratio("<=", 1.03)),
        Comparison("bytes of all widths, nested against three copies", "bytes", copies,
                   float(arms.expert_bytes(made["nested"])), ratio("<=", 0.50), kind="counted"),
    ]  # fmt: skip
    return comparisons, [f"perplexity of {name}: {value:.2f}, {arms.expert_bytes(made[name]) / 1e6:.2f} MB of experts"
                         for name, value in plain.items()]  # fmt: skip


def _race(made: Made, judged: Ids, sizes: Sizes, repeats: int) -> Found:
    """Requests a second of all arms with the same buffer on the same storage."""
    eight = made["int8"]
    alone = Served(arms.open_whole(eight), None)
    step = side_by_side({"": lambda: alone.requests(judged, sizes)}, repeats, warmup=1)[""].median
    layers, experts = int(eight.config["num_hidden_layers"]), int(eight.config["num_local_experts"])
    one = arms.expert_bytes(eight) / (layers * experts)
    layer = step / (sizes.written + arms.REQUESTS) / layers
    memory, speed = arms.memory_of(made, SHARE, FEWER), one / (READS * layer)
    served = {
        "edge-moe": arms.serve(made["mixed"], memory, speed, kind="edge"),
        "4 bits on demand": arms.serve(made["gptq4"], memory, speed, kind="demand"),
        "by number": arms.serve(made["nested"], memory, speed, kind="planes", order=by_number),
        "full": arms.serve(made["nested"], memory, speed, kind="planes"),
        "fewer bytes": arms.serve(made["nested"], int(FEWER * memory), speed, kind="planes"),
    }
    wrong = float(served["full"].requests(judged, sizes)
                  != Served(arms.open_whole(made["nested"]), None).requests(judged, sizes))  # fmt: skip
    calls = {name: (lambda each=each: each.requests(judged, sizes)) for name, each in served.items()}
    tokens = arms.REQUESTS * (sizes.prompt + sizes.written)
    rate = {name: Figure.of([tokens / s for s in it.samples], "tokens/s")
            for name, it in side_by_side(calls, repeats, warmup=1).items()}  # fmt: skip
    held = {name: float(it.cache.memory) for name, it in served.items() if it.cache}
    edge = rate["edge-moe"]
    comparisons = [
        Comparison("throughput, full against edge-moe", "tokens/s", edge, rate["full"], ratio(">=", 1.14)),
        Comparison("throughput with fewer bytes against edge-moe", "tokens/s", edge, rate["fewer bytes"],
                   ratio(">=", 0.95)),
        Comparison("fewer bytes for experts", "bytes", held["edge-moe"], held["fewer bytes"], ratio("<=", FEWER),
                   kind="counted"),
        Comparison("answers that differ from those with all in memory", "", None, wrong, absolute("<=", 0),
                   kind="counted"),
    ]  # fmt: skip
    notes = [f"a layer computes {1e6 * layer:.0f} us, the storage reads {speed / 1e6:.1f} MB/s"]
    notes += [f"{name}: {rate[name]}, {it.cache.stats}" for name, it in served.items() if it.cache]
    return comparisons, notes


def _orders(made: Made, judged: Ids, sizes: Sizes, repeats: int) -> Found:
    """Layers as they were, all planes to be read, at a speed at which reads take as long as products."""
    whole = Served(arms.open_whole(made["nested"]), None)
    layers = [each for _ in range(2) for each in arms.recorded(whole, judged, sizes)]  # the second time warm
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for need, seconds in (each for layer in layers[len(layers) // 2 :] for each in layer):
        times[need[1:]].append(seconds)
    units = arms.plane_bytes(made["nested"])
    compute = sum(float(np.median(times[need[1:]])) for layer in layers for need, _ in layer)
    speed = sum(units[need[1]] for layer in layers for need, _ in layer) / compute

    def job(need: Need) -> Job:
        return Job(*need, units[need[1]] / speed, float(np.median(times[need[1:]])))

    cases = [[job(need) for need, _ in layer] for layer in layers[len(layers) // 2 :]]
    cases = [each for each in cases if arms.balanced(each)][:INSTANCES]
    bubble = {rule.__name__: sum(simulate(rule(each)).bubble for each in cases) for rule in (hebf, by_id)}
    span = {
        rule.__name__: sum(simulate(rule(each)).makespan for each in cases) for rule in (hebf, by_id, optimum)
    }
    memory = arms.memory_of(made, SHARE, FEWER)
    waits = {}
    for name, order in (("by number", by_number), ("hebf", hottest_first)):
        run = arms.serve(made["nested"], memory, speed, kind="planes", order=order)
        calls = [(run.requests(judged, sizes), run.timeline.busy("wait"))[1] for _ in range(repeats + 1)]
        waits[name] = Figure.of(list(np.diff(calls)), "s")
    comparisons = [
        Comparison("waits of products, HEBF against by number, simulated", "s", bubble["by_id"], bubble["hebf"],
                   ratio("<=", 0.85), kind="modelled"),
        Comparison("makespan, HEBF against the least of all orders, simulated", "s", span["optimum"], span["hebf"],
                   ratio("<=", 1.10), kind="modelled"),
        Comparison("waits of products, HEBF against by number, run", "s", waits["by number"], waits["hebf"],
                   ratio("<", 1.0)),
    ]  # fmt: skip
    lower = sum(simulate(johnson(each), chains=False).makespan for each in cases)
    notes = [f"{len(cases)} layers with reads of 0.7 to 1.3 of products, at {speed / 1e6:.0f} MB/s: makespans "
             + ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in span.items())
             + f", Johnson's bound without chains {1e3 * lower:.1f} ms"]  # fmt: skip
    return comparisons, notes
