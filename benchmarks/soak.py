"""A decoder at its memory limit for a while, prompts of all lengths, some answers broken off: does it stay within it?

Random weights of a published shape, streamed, in a process that a memory cgroup holds to the limit. Prints one JSON
document: tokens, answers, and over time resident memory, open files and threads. Exit status 1 where memory went over
the limit, where it rose after the first tenth by over 2 %, or where files or threads were left open.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.artifact import Artifact
from ondevice.kernels import Kernels
from ondevice.measure.confine import Confined, confine
from ondevice.measure.memory import call_fresh
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.residency import CHUNK, plan_residency
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES

CONTEXT = 512


def soak(folder: str, limit: int, cgroup: Confined, seconds: float, threads: int) -> dict[str, Any]:
    """Write answers for so long within a limit, in bytes; what came of it."""
    cgroup.enter()
    artifact, random = Artifact(folder), np.random.default_rng(0)
    plan = plan_residency(artifact.tensors, artifact.config, limit, context=CONTEXT)
    source = plan.open(artifact.tensors)
    decoder = Decoder(source, artifact.config, Kernels(threads), context=CONTEXT)
    engine = Engine(decoder, chunk=CHUNK)
    found: dict[str, Any] = {"limit": limit, "answers": 0, "broken_off": 0, "tokens": 0, "samples": []}
    started = last = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        prompt = random.integers(0, artifact.config["vocab_size"], random.integers(1, 300)).tolist()
        sampling = Sampling(temperature=0.8, seed=int(random.integers(1 << 31)))
        stream = engine.stream(prompt, sampling=sampling, limit=int(random.integers(1, 40)))
        broken_off = random.random() < 0.2
        found["tokens"] += len(list(islice(stream, 3 if broken_off else None)))
        stream.close()
        found["broken_off" if broken_off else "answers"] += 1
        if now - last > seconds / 60:
            found["samples"].append(sample(now - started))
            last = now
            print(json.dumps(found["samples"][-1]), file=sys.stderr, flush=True)
    return found | {"cache_held": decoder.cache.bytes_used, "read": source.bytes_read}


def sample(at: float) -> dict[str, float]:
    """Of this process: resident bytes, open files, threads."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    counted = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task"))
    return dict(zip(("second", "resident", "files", "threads"), (at, resident, *counted), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-0.6b")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.5, help="of the weights' bytes, as a limit")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_random(Path(folder) / "pack", arguments.shape, bits=arguments.bits)
        weights = sum(tensor.nbytes for tensor in artifact.tensors.values())
        limit = int(arguments.share * weights)
        with confine(limit) as cgroup:
            settings = str(Path(folder) / "pack"), limit, cgroup, 60 * arguments.minutes, arguments.threads
            found, peak = call_fresh(soak, *settings)
            found |= {"peak_resident": peak, "peak_of_cgroup": cgroup.peak_bytes()}
    print(json.dumps(found))
    settled = found["samples"][len(found["samples"]) // 10 :]
    rises = settled[-1]["resident"] > 1.02 * settled[0]["resident"]
    grows = any(settled[-1][kind] > settled[0][kind] for kind in ("files", "threads"))
    over = peak > limit
    sys.exit(1 if rises or grows or over or found["cache_held"] else 0)


if __name__ == "__main__":
    main()
