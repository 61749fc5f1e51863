"""A decoder under a hard limit on memory: ours, streamed, beside llama.cpp with a mapped file, and the disk's bound.

Random weights of a published shape. Each arm runs in a process of its own that a memory cgroup holds to the limit; arms
take turns. Prints one JSON document: tokens/s, bytes read a token, peaks, the disk's rate of direct reads in the same
run, and ours over the bound (bytes that must be read over that rate). With --speculate N, also ours with trees of N
guesses a pass that come true as they did for lm-8m on held-out documents (a record, replayed; heads are random and take
their time). Needs the right to make a memory cgroup.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ondevice.artifact import Artifact
from ondevice.backends.peers.offloading import (
    Guesses,
    Load,
    Policy,
    open_disk,
    open_mapped_llama_cpp,
    open_native,
    read_ahead,
)
from ondevice.backends.peers.random_gguf import write_random_gguf
from ondevice.backends.peers.speculating import Speaker, Way
from ondevice.measure.apart import Arm, side_by_side_apart
from ondevice.measure.confine import confine
from ondevice.measure.here import machine
from ondevice.measure.timing import Figure
from ondevice.models import zoo
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.runtime.spec_memo import held_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--share", type=float, nargs="*", default=[0.8, 0.5, 0.25], help="of the GGUF file's bytes"
    )
    parser.add_argument(
        "--speculate", type=int, default=0, metavar="N", help="nodes of a tree of guesses, up to 63"
    )
    parser.add_argument("--folder", type=Path, help="where both models are kept and found again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        where = arguments.folder or Path(scratch)
        pack, gguf = where / f"{arguments.shape}-{arguments.bits}", where / f"{arguments.shape}.gguf"
        if not pack.exists():
            write_random(pack, arguments.shape, bits=arguments.bits)
        if not gguf.exists():
            write_random_gguf(gguf, SHAPES[arguments.shape], "q4_0")
        load = Load(tokens=arguments.tokens, threads=arguments.threads)
        weights = sum(tensor.nbytes for tensor in Artifact(pack).tensors.values())
        document = {
            "shape": arguments.shape, "machine": machine(), "threads": load.threads, "weights": weights,
            "gguf": gguf.stat().st_size, "read_ahead": read_ahead(gguf), "limits": [],
        }  # fmt: skip
        guesses = record(arguments.speculate) if arguments.speculate else None
        if guesses:
            passes = len(guesses.trace)
            document["tokens_a_pass"] = 1 + sum(map(len, guesses.trace)) / passes
        for share in arguments.share:
            row = measure(pack, gguf, load, int(share * gguf.stat().st_size), arguments.repeats, guesses)
            document["limits"].append({"share": share} | row)
            print(json.dumps(document["limits"][-1]), file=sys.stderr)
    print(json.dumps(document))


def record(nodes: int) -> Guesses:
    """Which nodes of lm-8m's trees came true, in conversations about documents that it has not seen."""
    model, heads = zoo.locate("lm-8m"), zoo.locate("medusa-heads")
    speaker = Speaker(model, heads, Way(nodes, 4), answer=64, threads=1)
    speaker.talk(held_out(model, 12, 0))
    return Guesses(speaker.recorder.trace, speaker.heads.rates, nodes)


def measure(
    pack: Path, gguf: Path, load: Load, limit: int, repeats: int, guesses: Guesses | None
) -> dict[str, object]:
    with ExitStack() as stack:
        names = ("ours", "mapped", "llama.cpp", "guesses")
        cgroups = {name: stack.enter_context(confine(limit)) for name in names}
        arms = {
            "ours": Arm(open_native, (pack, Policy(), load, limit, cgroups["ours"])),
            "mapped": Arm(open_native, (pack, Policy("mapped"), load, limit, cgroups["mapped"])),
            "llama.cpp": Arm(open_mapped_llama_cpp, (gguf, load, cgroups["llama.cpp"])),
            "disk": Arm(open_disk, (pack / "model.safetensors",)),
        }
        if guesses:
            longer = replace(load, tokens=4 * load.tokens)
            arms["guesses"] = Arm(
                open_native, (pack, Policy(), longer, limit, cgroups["guesses"], None, guesses)
            )
        found = side_by_side_apart(arms, repeats, warmup=1, timeout=300)
        row: dict[str, object] = {"limit": limit}
        for name, outcome in found.items():
            if isinstance(outcome, str):
                row[name] = outcome
            elif name == "disk":
                row["bytes_a_second"] = Figure.of(outcome.parts["bandwidth"], "bytes/s").to_json()
            else:
                rates = Figure.of([1 / seconds for seconds in outcome.parts["token"]], "tokens/s")
                facts = {key: value for key, value in outcome.last.items() if key != "tokens"}
                row[name] = rates.to_json() | facts | {
                    "peak_resident": outcome.peak_bytes, "peak_of_cgroup": cgroups[name].peak_bytes(),
                }  # fmt: skip
    ours, disk = found["ours"], found["disk"]
    if not isinstance(ours, str) and not isinstance(disk, str):
        bound = [
            ours.last["streamed"] / rate / seconds
            for rate, seconds in zip(disk.parts["bandwidth"], ours.parts["token"])
        ]
        row["of_the_bound"] = Figure.of(bound, "").to_json()
    return row


if __name__ == "__main__":
    main()
