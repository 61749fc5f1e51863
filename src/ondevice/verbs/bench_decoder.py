"""bench, for models that write: tokens a second of the prompt and of the answer, beside other engines.

Composes decoders on engines (`backends.peers.decoders`) and measures. Each engine runs in a process of its own, one at
a time, in turn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.backends.peers.decoders import DECODERS, missing_decoder, open_decoder
from ondevice.devices.profile import Device
from ondevice.errors import BadInput, OndeviceError
from ondevice.measure.apart import Arm, Opened, Outcome, side_by_side_apart
from ondevice.measure.energy import Rapl
from ondevice.measure.here import machine
from ondevice.measure.memory import call_fresh
from ondevice.measure.sidebyside import bootstrap_ratio, verdict
from ondevice.measure.timing import Figure
from ondevice.runtime.weights.shapes import find_shape
from ondevice.verbs.open import language_folder

Progress = Callable[[str, float], None]
GGUF_KINDS = {4: "q4_0", 8: "q8_0", 16: "f16"}
_WORDS = {"tie": "tie", "lower": "slower", "higher": "faster"}


@dataclass(frozen=True)
class DecoderRow:
    """One engine on one number of threads.

    prefill, decode: tokens/s of the prompt and of the tokens after the first, measured. first: seconds from the
    prompt to the first token in an engine that is open. load: seconds to open it, imports included, once; None
    where the weights were made up on opening. memory: peak resident bytes of its process. energy: joules a call, of the
    whole processor, or modelled from a device's active power; None where neither is known. ratios: of prefill and
    decode to the first row's: {"median", "interval", "compared"}.
    """

    engine: str
    variant: str
    threads: int
    prefill: Figure
    decode: Figure
    first: Figure
    load: Figure | None
    memory: Figure
    energy: Figure | None
    ratios: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        figures = ("prefill", "decode", "first", "load", "memory", "energy")
        values = {name: getattr(self, name) for name in figures}
        return {
            "engine": self.engine,
            "variant": self.variant,
            "threads": self.threads,
            **{name: None if value is None else value.to_json() for name, value in values.items()},
            "ratios": self.ratios,
        }


@dataclass(frozen=True)
class DecoderBench:
    """rows: ours first. skipped: {"engine", "reason"}. settings: what ran, on which machine."""

    rows: list[DecoderRow]
    skipped: list[dict[str, str]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice bench --json` prints for a model that writes."""
        return {
            "settings": self.settings,
            "rows": [row.to_json() for row in self.rows],
            "skipped": self.skipped,
        }


def bench_decoder(
    model: str | Path | None = None,
    against: Sequence[str] = (),
    *,
    random: str | None = None,
    bits: int = 4,
    prompt: int = 512,
    tokens: int = 128,
    threads: Sequence[int] = (2,),
    repeats: int = 5,
    device: Device | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done: None,
) -> DecoderBench:
    """Prefill and decode speed, time to the first token, load, memory and energy, beside other engines.

    model: what our runtime opens: a Hugging Face folder, an artifact, a name of the zoo, or a GGUF file; llama.cpp and
    OpenVINO get it as GGUF of `bits` (4: Q4_0, 8: Q8_0, 16: F16), unless it is a GGUF file. random: instead, the name
    of a published shape: ours gets random weights in tiles of `bits`, the two a GGUF file of random blocks, torch
    random bfloat16. against: "llama.cpp", "openvino", "torch". prompt, tokens:
    read, and written greedily, in every timed call. repeats: rounds; in each, every engine has one timed call.
    device: this machine's profile, to model energy from where it cannot be measured.
    Raises BadInput for unknown names and where our runtime does not open the model.
    """
    _check(model, random, against, bits, prompt, tokens, threads)
    load, name = os.getloadavg()[0], str(random or model)
    if model is not None:
        model = language_folder(model) or model
    absent = {peer: problem for peer in against if (problem := missing_decoder(peer)) is not None}
    skipped = [{"engine": peer, "reason": str(problem)} for peer, problem in absent.items()]
    engines = ["native", *(peer for peer in dict.fromkeys(against) if peer not in absent)]
    with tempfile.TemporaryDirectory() as scratch:
        files: dict[str, tuple[str, str]] = {}
        for engine in engines:
            try:
                if engine not in ("native", "torch"):
                    progress(f"preparing {engine}", 0.0)
                files[engine] = _file(engine, model, random, bits, Path(scratch), seed)
            except OndeviceError as problem:
                skipped.append({"engine": engine, "reason": str(problem)})
        rows: list[DecoderRow] = []
        for done, count in enumerate(threads):
            progress(f"measuring on {count} threads", done / len(threads))
            arms = {
                engine: Arm(_open, (engine, file, count, bits, prompt, tokens, seed))
                for engine, (file, _) in files.items()
            }
            outcomes = side_by_side_apart(arms, repeats, warmup=1, seed=seed, timeout=1800)
            if isinstance(outcomes["native"], str):
                raise BadInput(f"our runtime does not run it: {outcomes['native']}")
            for engine, outcome in outcomes.items():
                if isinstance(outcome, str):
                    skipped.append({"engine": engine, "reason": outcome})
                else:
                    made = random is not None and engine in ("native", "torch")
                    key = (engine, files[engine][1], count)
                    rows.append(_row(key, outcome, outcomes["native"], prompt, tokens, made, device))
    progress("done", 1.0)
    settings = {
        "model": name, "random": random is not None, "bits": bits, "prompt": prompt,
        "tokens": tokens, "threads": list(threads), "repeats": repeats, "machine": machine(),
        "load_average": load,  # on a busy machine, engines whose threads spin lose all their speed
    }  # fmt: skip
    return DecoderBench(rows, skipped, settings)


def _file(
    engine: str, model: str | Path | None, random: str | None, bits: int, scratch: Path, seed: int
) -> tuple[str, str]:
    """(what the engine opens, the variant's name); GGUF files are made once."""
    if random is not None and engine in ("native", "torch"):
        return random, f"{bits}-bit tiles" if engine == "native" else "bfloat16"
    if engine in ("native", "torch"):
        return str(model), "as it is" if engine == "native" else "bfloat16"
    kind = GGUF_KINDS[bits]
    made = random is not None or Path(str(model)).suffix != ".gguf"
    gguf = scratch / f"{kind}.gguf" if made else Path(str(model))
    if not gguf.exists() and random is not None:
        from ondevice.backends.peers.random_gguf import write_random_gguf

        write_random_gguf(gguf, find_shape(random), kind, seed=seed)
    elif not gguf.exists() and made:
        from ondevice.backends.gguf.export import write_gguf
        from ondevice.backends.language import read_files

        write_gguf(read_files(str(model)), gguf, kind.upper())
    if engine == "llama.cpp":
        from ondevice.backends.peers.llama_cpp import llama_cpp_build

        return str(gguf), f"{kind if made else 'gguf'}, {llama_cpp_build()}"
    graph, _ = call_fresh(_convert, str(gguf), str(scratch / "openvino"))
    return graph, f"{kind} as OpenVINO stores it" if made else "gguf"


def _convert(gguf: str, folder: str) -> str:
    os.dup2(2, 1)
    from ondevice.backends.peers.openvino_decoder import convert_gguf

    return str(convert_gguf(Path(gguf), Path(folder)))


def _open(engine: str, file: str, threads: int, bits: int, prompt: int, tokens: int, seed: int) -> Opened:
    """In the engine's process: a call that reads the prompt and writes, and says how long each took."""
    decoder = open_decoder(engine, file, threads=threads, context=prompt + tokens + 1, bits=bits)
    ids = np.random.default_rng(seed).integers(260, 1000, prompt).tolist()
    meter = Rapl()

    def call() -> dict[str, float]:
        before = meter.joules()
        generation = decoder.generate(ids, tokens)
        found = {"first": generation.first, "rest": generation.rest}
        return found | ({"joules": meter.since(before)} if meter.readable else {})

    return call, lambda: None


def _row(
    key: tuple[str, str, int], it: Outcome, ours: Outcome, prompt: int, tokens: int, made: bool, device: Device | None
) -> DecoderRow:  # fmt: skip
    (prefill, decode), own = _speeds(it, prompt, tokens), _speeds(ours, prompt, tokens)
    energy = None
    if "joules" in it.parts:
        energy = Figure.of(it.parts["joules"], "J")
    elif device is not None and device.power:
        watts = device.power["active"].value
        energy = Figure.of([watts * each for each in it.seconds.samples], "J", "modelled")
    ratios = {
        name: {
            "median": mine.median / reference.median,
            "interval": None if it is ours or mine.n < 2 else bootstrap_ratio(reference, mine),
            "compared": "tie" if it is ours else _WORDS[verdict(reference, mine)],
        }
        for name, mine, reference in (("prefill", prefill, own[0]), ("decode", decode, own[1]))
    }
    return DecoderRow(
        *key, prefill=prefill, decode=decode, first=Figure.of(it.parts["first"], "s"),
        load=None if made else Figure.of([it.open_seconds], "s"),
        memory=Figure.of([it.peak_bytes], "bytes"), energy=energy, ratios=ratios,
    )  # fmt: skip


def _speeds(it: Outcome, prompt: int, tokens: int) -> tuple[Figure, Figure]:
    return (
        Figure.of([prompt / each for each in it.parts["first"]], "tokens/s"),
        Figure.of([(tokens - 1) / each for each in it.parts["rest"]], "tokens/s"),
    )


def _check(
    model: str | Path | None, random: str | None, against: Sequence[str], bits: int, prompt: int, tokens: int,
    threads: Sequence[int],
) -> None:  # fmt: skip
    if (model is None) == (random is None):
        raise BadInput("name a model, or the shape of one with random weights")
    if random is not None:
        find_shape(random)
        if bits not in (4, 8):
            raise BadInput(f"random weights have 4 or 8 bits, not {bits}")
    for name in [against] if isinstance(against, str) else against:
        if name not in DECODERS or name == "native":
            raise BadInput(
                f"no engine {name!r}; there are: {', '.join(n for n in DECODERS if n != 'native')}"
            )
    if not threads or min(threads) < 1 or prompt < 1 or tokens < 2:
        raise BadInput(
            "bench needs one thread or more, a prompt of a token or more and 2 tokens or more to write"
        )
