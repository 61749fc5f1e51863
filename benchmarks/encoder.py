"""The 16 MB MiniLM beside the fastest peers, and with one processor taken away.

Fits the artifact first unless --artifact names one. Prints what `ondevice bench` measures: every engine in its own
process, in turn, so that a slow moment of the machine meets all alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ondevice
from ondevice.measure.timing import seconds

TOKENS = 128


def burn() -> None:
    while True:
        pass


def crowded(artifact: Path, rounds: int) -> dict[str, Any]:
    """Seconds with two threads alone, and while another process keeps one processor busy."""
    alone: list[float] = []
    beside: list[float] = []
    with ondevice.open(artifact, threads=2) as session:
        ids = [list(range(1000, 1000 + TOKENS))]
        for times in (alone, beside) * rounds:
            burner = multiprocessing.Process(target=burn, daemon=True)
            if times is beside:
                burner.start()
                time.sleep(0.2)
            times += [seconds(lambda: session.hidden(ids)) for _ in range(50)]
            if times is beside:
                burner.kill()
                burner.join()
    alone_median, beside_median = statistics.median(alone), statistics.median(beside)
    return {
        "alone_ms": 1e3 * alone_median,
        "beside_a_busy_process_ms": 1e3 * beside_median,
        "slowdown": beside_median / alone_median,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--against", nargs="*", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = arguments.artifact
        if artifact is None:
            artifact = Path(scratch) / "minilm"
            print("fitting MiniLM in 16 MB", file=sys.stderr)
            ondevice.fit(
                "minilm", out=artifact, device="raspberry-pi-4", budget=ondevice.Budget(storage="16MB")
            )
        result = ondevice.bench(
            artifact, arguments.against, threads=(1, 2), tokens=TOKENS, repeats=arguments.rounds
        )
        for threads in (1, 2):
            if peer := result.fastest_peer(threads):
                print(
                    f"{threads} thread(s): {peer.ratio:.2f}x as fast as {peer.engine} {peer.variant}, the fastest "
                    f"peer (95 % interval {peer.interval})",
                    file=sys.stderr,
                )
        document = result.to_json() | {"crowded": crowded(artifact, 5)}
    print(f"with one processor taken away: {document['crowded']['slowdown']:.2f}x slower", file=sys.stderr)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
