"""Prefill and decode of a decoder of a published shape with random quantised weights, beside what memory allows.

Prints tokens a second, bytes read a token over the measured read bandwidth, and peak memory, as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from typing import Any

import numpy as np

from ondevice.kernels import PAGE, Kernels
from ondevice.measure.here import machine
from ondevice.measure.memory import own_peak
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.random import SHAPES, RandomTensor, random_decoder
from ondevice.verbs.bench_decoder import bench_decoder


def mixed_decoder(shape: str, bits: float, group_size: int) -> tuple[dict[str, Any], dict[str, RandomTensor]]:
    """A random decoder whose weights have so many bits on average, scales apart; every matrix has the whole number
    below or above, in turn."""
    narrow = math.floor(bits)
    config, tensors = random_decoder(shape, bits=narrow, group_size=group_size)
    if bits == narrow:
        return config, tensors
    wide = random_decoder(shape, bits=narrow + 1, group_size=group_size)[1]
    weights = widened = 0
    for name, tensor in tensors.items():
        if tensor.format["kind"] == "tiles":
            size = tensor.format["rows"] * tensor.format["columns"]
            weights += size
            if widened + size / 2 <= (bits - narrow) * weights:
                widened += size
                tensors[name] = wide[name]
    return config, tensors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument(
        "--bits", type=float, default=4, help="3.4: of every five matrices, three have 3 bits and two 4"
    )
    parser.add_argument("--group-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument(
        "--against", nargs="*", default=[], help="llama.cpp openvino torch, in turn with ours"
    )
    arguments = parser.parse_args()
    config, tensors = mixed_decoder(arguments.shape, arguments.bits, arguments.group_size)
    size = sum(tensor.array.nbytes for tensor in tensors.values())
    room = -(-max(arguments.prompt, arguments.context + arguments.tokens + 1) // PAGE) * PAGE
    decoder = Decoder(
        tensors, config, Kernels(arguments.threads), context=room, cache_tokens=max(arguments.batch) * room
    )
    random = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return random.integers(0, config["vocab_size"], count).tolist()

    sequence = decoder.cache.sequence()
    prefill = []
    for _ in range(3):
        start = time.perf_counter()
        decoder.step([(sequence, ids(arguments.prompt))])
        prefill.append(arguments.prompt / (time.perf_counter() - start))
        sequence.free()
    document = {
        "shape": arguments.shape, "bits": arguments.bits, "group_size": arguments.group_size,
        "threads": arguments.threads, "weight_bytes": size, "machine": machine(),
        "prefill_tokens_a_second": statistics.median(prefill), "decode": [],
    }  # fmt: skip
    for batch in arguments.batch:
        sequences = [decoder.cache.sequence() for _ in range(batch)]
        decoder.step([(each, ids(arguments.context)) for each in sequences])
        steps = []
        for _ in range(arguments.tokens):
            start = time.perf_counter()
            decoder.step([(each, ids(1)) for each in sequences])
            steps.append(time.perf_counter() - start)
        for each in sequences:
            each.free()
        median = statistics.median(steps)
        document["decode"].append(
            {
                "batch": batch,
                "tokens_a_second": batch / median,
                "best": batch / min(steps),
                "weights_gb_a_second": size / median / 1e9,
            }
        )
        print(f"batch {batch}: {batch / median:.1f} tokens/s", file=sys.stderr)
    document["memory_bytes"] = own_peak()
    if arguments.against:
        document["beside"] = bench_decoder(
            against=arguments.against, random=arguments.shape, bits=arguments.bits, prompt=arguments.prompt,
            tokens=arguments.tokens, threads=[arguments.threads],
        ).to_json()  # fmt: skip
    print(json.dumps(document))


if __name__ == "__main__":
    main()
