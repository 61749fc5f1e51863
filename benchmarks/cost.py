"""What a decoded token costs as work grows: with the context behind it, and with the texts beside it.

A decoder of a published shape with random quantised weights writes one token at each context, and at each batch; the
cells take turns in shuffled rounds, so that a slow moment of the machine meets all alike. Straight lines are fitted to
the medians by least squares. Beside a line's slope stands what memory alone would take: a token's bytes in the cache
over the read bandwidth of all cores, which is measured in the same rounds. Prints a table; --out writes a page with
charts, --json prints all figures instead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.kernels import PAGE, Kernels
from ondevice.kernels.pages import CACHE_DTYPES
from ondevice.measure.charts import Point, scatter
from ondevice.measure.here import machine
from ondevice.measure.report import page, section
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.random import SHAPES, random_decoder

CONTEXTS, BATCHES = [128, 256, 512, 1024, 2048, 4096, 8192], [1, 2, 4, 8, 16]
Cell = tuple[int, int]  # context, batch


def decoder_with_full_cache(
    shape: str, bits: int, cache: Any, threads: int, tokens: int, context: int
) -> tuple[Decoder, int]:
    """Every page of its cache holds what some text left there, each in its own memory; and bytes of its weights."""
    config, tensors = random_decoder(shape, bits=bits)
    config = config | {"max_position_embeddings": max(context, config["max_position_embeddings"])}
    decoder = Decoder(
        tensors, config, Kernels(threads), context=context, cache_tokens=tokens, cache_dtype=cache
    )
    text = decoder.cache.sequence()
    decoder.step([(text, np.random.default_rng(0).integers(0, decoder.vocabulary, PAGE).tolist())])
    [kept] = text._pages
    for layer in decoder.cache.layers:
        layer.pool[:] = layer.pool[kept]
    text.free()
    return decoder, sum(tensor.array.nbytes for tensor in tensors.values())


def seconds_of_a_step(decoder: Decoder, cell: Cell, steps: int) -> list[float]:
    """Of tokens that are written behind such a context, one in each of so many texts."""
    context, batch = cell
    texts = [decoder.cache.sequence() for _ in range(batch)]
    for text in texts:
        text.reserve(context)
        text.advance(context)
    found = []
    for step in range(steps + 1):
        start = time.perf_counter()
        decoder.step([(text, [1 + step]) for text in texts])
        found.append(time.perf_counter() - start)
        for text in texts:
            text.rollback(context)
    for text in texts:
        text.free()
    return found[1:]  # the first finds other pages in the processor's caches


def bandwidth(values: np.ndarray) -> float:
    """Bytes a second of reading them once, by NumPy's dot product."""
    start = time.perf_counter()
    values @ values
    return values.nbytes / (time.perf_counter() - start)


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """The straight line of least squares, R2, and how far the last point lies above it, as a share."""
    slope, start = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (start + slope * np.asarray(x))
    whole = np.asarray(y) - np.mean(y)
    return {
        "slope": float(slope),
        "start": float(start),
        "r2": float(1 - rest @ rest / (whole @ whole)),
        "last_above": float(rest[-1] / y[-1]),
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    cells = [(context, 1) for context in arguments.contexts]
    cells += [(arguments.batch_context, batch) for batch in arguments.batches]
    cells = sorted(set(cells))
    room = max(batch * (-(-context // PAGE) + 1) * PAGE for context, batch in cells)
    decoder, weights = decoder_with_full_cache(
        arguments.shape,
        arguments.bits,
        arguments.cache,
        arguments.threads,
        room,
        max(arguments.contexts) + PAGE,
    )
    samples: dict[Cell, list[float]] = {cell: [] for cell in cells}
    reads, values, random = [], np.ones(arguments.read_bytes // 4, np.float32), np.random.default_rng(1)
    for _ in range(arguments.rounds):
        reads += [bandwidth(values) for _ in range(3)]
        for number in random.permutation(len(cells)):
            samples[cells[number]] += seconds_of_a_step(decoder, cells[number], arguments.steps)
    read, cached = max(reads), decoder.cache.page_bytes / PAGE
    rows = [
        {
            "context": context, "batch": batch, "seconds": statistics.median(each), "min": min(each), "max": max(each),
            "n": len(each), "modelled_seconds": (weights + cached * context * batch) / read,
        }
        for (context, batch), each in samples.items()
    ]  # fmt: skip
    return {
        "shape": arguments.shape, "bits": arguments.bits, "cache": arguments.cache, "threads": arguments.threads,
        "weight_bytes": weights, "cache_bytes_a_token": cached, "read_bytes_a_second": read, "cells": rows,
        "batch_context": arguments.batch_context,
        "by_context": fit(rows, "context", batch=1) | {"modelled_slope": cached / read},
        "by_batch": fit(rows, "batch", context=arguments.batch_context)
        | {"modelled_slope": cached * arguments.batch_context / read},
        "machine": machine(),
    }  # fmt: skip


def fit(rows: Sequence[dict[str, Any]], along: str, **fixed: int) -> dict[str, float]:
    chosen = [row for row in rows if all(row[name] == value for name, value in fixed.items())]
    return line([row[along] for row in chosen], [row["seconds"] for row in chosen])


def table(document: dict[str, Any]) -> str:
    lines = [
        f"{'context':>8} {'batch':>6} {'ms':>9} {'min':>9} {'max':>9} {'tokens/s':>9} {'memory alone, ms':>17}"
    ]
    for row in document["cells"]:
        times = (1e3 * row[name] for name in ("seconds", "min", "max"))
        lines.append(
            f"{row['context']:8} {row['batch']:6} "
            + " ".join(f"{each:9.2f}" for each in times)
            + f" {row['batch'] / row['seconds']:9.1f} {1e3 * row['modelled_seconds']:17.2f}"
        )
    for name, what in (("by_context", "token of context"), ("by_batch", "text beside it")):
        it = document[name]
        lines.append(
            f"{1e6 * it['slope']:.3f} us a {what} (memory alone: {1e6 * it['modelled_slope']:.3f}, modelled), "
            f"R2 {it['r2']:.4f}, the last {it['last_above']:+.1%} off the line"
        )
    lines.append(
        f"read bandwidth {document['read_bytes_a_second'] / 1e9:.1f} GB/s, measured, best of all rounds"
    )
    return "\n".join(lines)


def html(document: dict[str, Any]) -> str:
    title = f"Cost of a token: {document['shape']}, {document['bits']} bits, cache {document['cache']}"
    body = [f"<h1>{title}</h1>", f"<pre>{table(document)}</pre>"]
    for along, name, value in (("context", "batch", 1), ("batch", "context", document["batch_context"])):
        rows = [row for row in document["cells"] if row[name] == value]
        points = [Point(row[along], 1e3 * row["seconds"], "measured") for row in rows]
        points += [
            Point(row[along], 1e3 * row["modelled_seconds"], "memory alone", filled=False) for row in rows
        ]
        chart = scatter(
            points, along, "ms a step", x_format=lambda tick: f"{tick:g}", y_format=lambda tick: f"{tick:g}"
        )
        about = f"{name} {value}; dots are measured medians, rings what reading weights and cache would take, modelled."
        body.append(section(f"By {along}", about, f'<div class="scroll">{chart}</div>'))
    return page(title, body)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.2-1b")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--cache", choices=CACHE_DTYPES, default="float16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--batch-context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--read-bytes", type=int, default=256 * 2**20)
    parser.add_argument("--out", type=Path, help="an HTML page")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    document = measure(arguments)
    if arguments.out:
        arguments.out.write_text(html(document), encoding="utf-8")
    print(json.dumps(document) if arguments.json else table(document))


if __name__ == "__main__":
    main()
