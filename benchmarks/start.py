"""From the start of a process to the first token after a prompt of 32: ours from an artifact, llama.cpp from GGUF.

Random 4-bit weights of a published shape, files in the page cache, processes in turn. Tokens are numbers: no tokenizer
is loaded on either side. Prints one JSON document: seconds, and ours over llama.cpp's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ondevice.backends.peers.llama_cpp import llama_cpp_build
from ondevice.backends.peers.random_gguf import write_random_gguf
from ondevice.measure.here import machine
from ondevice.measure.sidebyside import bootstrap_ratio
from ondevice.measure.timing import Figure
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES, find_shape

OURS = """
import sys
from ondevice.artifact import Artifact
from ondevice.kernels import Kernels
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
artifact = Artifact(sys.argv[1])
decoder = Decoder(artifact.tensors, artifact.config, Kernels(int(sys.argv[2])), context=64)
next(iter(Engine(decoder).stream(range(300, 332), limit=2)))
"""
THEIRS = """
import sys
from pathlib import Path
from ondevice.backends.peers.llama_cpp import open_llama_cpp
open_llama_cpp(Path(sys.argv[1]), int(sys.argv[2]), 64).generate(range(300, 332), 1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, file = Path(scratch) / "artifact", Path(scratch) / "model.gguf"
        write_random(folder, options.shape, bits=4)
        write_random_gguf(file, find_shape(options.shape), "q4_0")
        arms = {"ours": (OURS, folder), "llama.cpp": (THEIRS, file)}
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(options.repeats + 1):  # the first fills the page cache
            for name, (code, model) in arms.items():
                start = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-c", code, str(model), str(options.threads)],
                    check=True,
                    capture_output=True,
                )
                if number:
                    seconds[name].append(time.perf_counter() - start)
    figures = {name: Figure.of(samples, "s") for name, samples in seconds.items()}
    ratio = figures["ours"].median / figures["llama.cpp"].median
    document = {
        "shape": options.shape,
        "threads": options.threads,
        "machine": machine(),
        "llama.cpp": llama_cpp_build(),
        "seconds": {name: figure.to_json() for name, figure in figures.items()},
        "ratio": ratio,
        "interval": bootstrap_ratio(figures["llama.cpp"], figures["ours"]),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
