"""sbc-llm: two runtimes on the same 4-bit weights, measured here; 25 models on three boards, modelled from that.

The baseline is a fair one of its kind: weights made float32 once, at start, products on NumPy's BLAS, a server that
stays up and streams. (Making them float at each product, as the weakest runtimes do, would be slower still.)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

from ondevice.backends.peers.decoders import NativeDecoder
from ondevice.backends.peers.dequantizing import BlasKernels, DequantizingServer
from ondevice.data.text import documentation
from ondevice.devices import profile
from ondevice.devices.profile import Sourced
from ondevice.kernels import Kernels
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.here import measure_here, usable_cores
from ondevice.measure.timing import Figure
from ondevice.models import zoo
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.forecast import RuntimeModel, decode_bytes
from ondevice.runtime.survey import survey
from ondevice.runtime.weights.rounded import dequantized, rounded
from ondevice.runtime.weights.safetensors import Checkpoint
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

MEASURED = ("smollm2-135m", "smollm2-360m", "qwen3-0.6b", "qwen2.5-1.5b")
# (tokens read, tokens written): shorter than those of the survey, of the same kinds
PROMPTS = {"short fact": (16, 16), "long explanation": (24, 48), "code": (64, 24), "summarise": (256, 16)}
BOARDS = ("raspberry-pi-4", "raspberry-pi-5", "orange-pi-5-pro")


# Of each call, decode: tokens/s; processor: seconds a token of the answer, reading the prompt included.
Arm = dict[str, list[float]]


@system("sbc-llm")
def prove(scale: Scale) -> Evidence:
    """Speed and processor time of both runtimes at every shape; equal tokens; the boards' table."""
    tiny = scale.name == "tiny"
    shapes, kinds = (MEASURED[:1], {"short fact": (8, 4)}) if tiny else (MEASURED, PROMPTS)
    rounds = {"tiny": 1, "fast": 2, "full": 5}[scale.name]
    comparisons, notes, reached = [], [], []
    bandwidth = measure_here().memory[-1].bandwidth.value
    for shape in shapes:
        speeds = {}
        for threads in (1,) if tiny else sorted({1, min(2, usable_cores())}):
            fused, served = _race(shape, kinds, threads, rounds)
            speeds[threads] = Figure.of(fused["decode"], "tokens/s")
            sides = Figure.of(served["decode"], "tokens/s"), speeds[threads]
            comparisons.append(
                Comparison(f"decode, {shape}, {threads} threads", "tokens/s", *sides, bar=ratio(">=", 2))
            )
            cpu = Figure.of(served["processor"], "s"), Figure.of(fused["processor"], "s")
            comparisons.append(
                Comparison(f"processor, {shape}, {threads} threads", "s", *cpu, bar=ratio("<=", 0.7))
            )
        read = decode_bytes(SHAPES[shape], "tiles4", 100) * max(it.median for it in speeds.values())
        reached.append(read / bandwidth)
        notes.append(
            f"{shape}: {' and '.join(f'{it.median:.1f} tokens/s on {n}' for n, it in speeds.items())} threads; "
            f"measured: the faster reads {read / 1e9:.1f} of the {bandwidth / 1e9:.1f} GB/s that memory gives here"
        )
    comparisons.append(_same_tokens(4 if tiny else 16))
    share = min(1.0, sorted(reached)[len(reached) // 2])
    more, words = _boards(share)
    return Evidence(*comparisons, *more, notes=notes + words)


def _race(shape: str, kinds: Mapping[str, tuple[int, int]], threads: int, rounds: int) -> tuple[Arm, Arm]:
    """Both runtimes on every kind of prompt, in turn."""
    context = max(read + written for read, written in kinds.values()) + 1
    arms: tuple[Arm, Arm] = {"decode": [], "processor": []}, {"decode": [], "processor": []}
    with (
        closing(NativeDecoder(shape, threads, context, 4)) as fused,
        closing(DequantizingServer(shape, threads, context)) as server,
    ):
        for number in range(-1, rounds):  # the first round finds caches and is not counted
            for read, written in kinds.values():
                prompt = list(range(300, 300 + read))
                for engine, arm in ((fused, arms[0]), (server, arms[1]))[:: 1 if number % 2 else -1]:
                    before = time.process_time() + (server.processor_seconds() if engine is server else 0.0)
                    it = engine.generate(prompt, written)
                    after = time.process_time() + (server.processor_seconds() if engine is server else 0.0)
                    if number >= 0:
                        arm["decode"].append((written - 1) / it.rest)
                        arm["processor"].append((after - before) / written)
                    time.sleep(0.1)  # threads of the last engine stop spinning
    return arms


def _same_tokens(prompts: int) -> Comparison:
    """Greedy tokens of both on `reference-lm` at 4 bits: the share of texts that are the same to the last token."""
    from tokenizers import Tokenizer

    config, tensors = zoo.open_zoo("reference-lm").config, rounded(Checkpoint(zoo.locate("reference-lm")), 4)
    engines = [
        Engine(Decoder(tensors, config, Kernels(1), context=64)),
        Engine(Decoder(dequantized(tensors), config, BlasKernels(1), context=64)),
    ]
    tokenizer = Tokenizer.from_file(str(zoo.locate("reference-lm") / "tokenizer.json"))
    same = 0
    for text in documentation().test.texts[:prompts]:
        prompt = tokenizer.encode(text).ids[:24]
        one, other = ([choice.token for choice in engine.stream(prompt, limit=16)] for engine in engines)
        same += one == other
    return Comparison("texts of both runtimes that are equal", "", None, same / prompts, absolute(">=", 1.0))


def _boards(share: float) -> tuple[list[Comparison], list[str]]:
    """Verdicts on the boards, with the share of bandwidth that the fused runtime reached here."""
    runtime = RuntimeModel(
        "fused",
        compute=Sourced(1.0, "assumed: what a board's profile grants"),
        bandwidth=Sourced(
            share, "measured here: bytes read a second over the bandwidth of memory, median of shapes"
        ),
        token_seconds=Sourced(2e-3, "assumed: Python around a token on a small core"),
        resident=Sourced(1.0, "counted: weights are used as they are stored"),
    )
    notes = [
        f"boards: bandwidth share {share:.2f} measured here; speeds modelled, ranges for constants x0.5 and x1.5"
    ]
    small, large, none = 0, 0, absolute("<=", 0)
    for board in BOARDS:
        for it in survey(profile.load(board), runtime):
            four = it.format == "q4_0"
            small += four and it.parameters < 1.6e9 and board != BOARDS[0] and it.verdict != "reliable"
            large += it.parameters > 6e9 and board == BOARDS[0] and it.verdict != "no"
            speed = (
                f"{it.decode:.1f} tokens/s ({it.spread[0]:.1f}-{it.spread[1]:.1f})"
                if it.spread
                else "too large"
            )
            notes.append(f"{board}, {it.shape} {it.format}: {it.verdict}, {speed}")
    return [
        Comparison(
            "4-bit models to 1.5 B not reliable on Pi 5, Orange Pi", "", None, small, none, kind="modelled"
        ),
        Comparison("7-8 B models not ruled out on Pi 4", "", None, large, none, kind="modelled"),
    ], notes
