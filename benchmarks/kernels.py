"""Each kernel's rate beside what the processor can do, measured in the same run.

    python benchmarks/kernels.py --threads 1

The peaks are loops of nothing but the instruction at hand, on registers, written in assembly and compiled here
(x86-64 and g++ only; elsewhere the rates stand alone). Every figure is the best of many short runs, because
other work on the machine only ever makes them slower; --json gives the median too.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.kernels import Kernels, Linear, Matrix, available, instruction_set
from ondevice.numerics.tiles import TiledMatrix

# Ten independent chains hide the latency of any of these. One line an instruction: name, operations, text.
PEAKS = {
    "avx512": [
        ("int8", 128, "vpdpbusd %%zmm30, %%zmm31, %%zmm{0}"),
        ("bf16", 64, "vdpbf16ps %%zmm30, %%zmm31, %%zmm{0}"),
        ("fp32", 32, "vfmadd231ps %%zmm30, %%zmm31, %%zmm{0}"),
    ],
    "avx2": [
        ("int8", 64, "vpmaddubsw %%ymm14, %%ymm15, %%ymm13; vpmaddwd %%ymm13, %%ymm12, %%ymm13;"
                     "vpaddd %%ymm13, %%ymm{0}, %%ymm{0}"),
        ("fp32", 16, "vfmadd231ps %%ymm14, %%ymm15, %%ymm{0}"),
    ],
}  # fmt: skip
LOOP = """
#include <chrono>
#include <cstdio>
int main() {{
    double best = 0;
    for (int repeat = 0; repeat < 20; ++repeat) {{
        long n = 400000;
        auto start = std::chrono::steady_clock::now();
        asm volatile("1:\\n{body}dec %0\\njnz 1b" : "+r"(n)::{clobbers});
        std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        if (4e6 * {operations} / took.count() > best) best = 4e6 * {operations} / took.count();
    }}
    std::printf("%.6e", best);
}}
"""


def peaks(name: str) -> dict[str, float]:
    """Operations a second of one thread by number format; empty where they cannot be measured."""
    if platform.machine() != "x86_64" or not shutil.which("g++"):
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, operations, text in PEAKS.get(name, []):
            body = "".join(text.format(i) + "\\n" for i in range(10))
            clobbers = ", ".join(f'"xmm{i}"' for i in range(14))
            source = Path(folder) / "peak.cpp"
            source.write_text(LOOP.format(body=body, clobbers=clobbers, operations=operations))
            subprocess.run(["g++", "-O1", str(source), "-o", f"{folder}/peak"], check=True)
            done = subprocess.run([f"{folder}/peak"], capture_output=True, text=True, check=False)
            if done.returncode == 0:  # else the processor has not got the instruction
                found[form] = float(done.stdout)
    return found


def timed(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Best and median time of a call."""
    times = []
    run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times), statistics.median(times)


def random_matrix(rng: np.random.Generator, rows: int, columns: int, bits: int) -> Matrix:
    codes = rng.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    limit = max(1, 127 >> (bits - 1))
    multipliers = rng.integers(0, limit + 1, (rows, columns // 32)).astype(np.int8)
    scales = np.full(rows, 0.01, np.float32)
    stored = TiledMatrix(rows, columns, bits, 32, codes, multipliers, scales).to_bytes()
    return Matrix.tiles(stored, rows, columns, bits, 32)


def cases(kernels: Kernels, rng: np.random.Generator) -> list[tuple[str, str, float, Callable[[], object]]]:
    """(name, what is counted, how much of it a call does, the call)."""

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    rows: list[tuple[str, str, float, Callable[[], object]]] = []
    for tokens, outputs, inputs, bits in (
        (128, 384, 384, 6), (128, 1536, 384, 4), (128, 384, 1536, 4), (128, 1536, 384, 8),
        (512, 2048, 2048, 4), (8, 1536, 384, 4),
    ):  # fmt: skip
        x, out = floats(tokens, inputs), np.empty((tokens, outputs), np.float32)
        layer = Linear([random_matrix(rng, outputs, inputs, bits)], [floats(outputs)], int8=True)
        name = f"linear {tokens} x {inputs} -> {outputs}, {bits} bits, int8"
        rows.append((name, "int8", 2 * tokens * outputs * inputs,
                     lambda x=x, layer=layer, out=out: kernels.linear(x, layer, out=out)))  # fmt: skip
    x, out = floats(128, 384), np.empty((128, 1536), np.float32)
    dense = Linear([Matrix.dense(floats(1536, 384))], [floats(1536)])
    rows.append(("linear 128 x 384 -> 1536, dense, fp32", "fp32", 2 * 128 * 384 * 1536,
                 lambda: kernels.linear(x, dense, out=out)))  # fmt: skip
    weight_only = Linear([random_matrix(rng, 1536, 384, 4)], [floats(1536)])
    rows.append(("linear 128 x 384 -> 1536, 4 bits, fp32", "fp32", 2 * 128 * 384 * 1536,
                 lambda: kernels.linear(x, weight_only, out=out)))  # fmt: skip
    for bits in (2, 3, 4, 6, 8):
        matrix = random_matrix(rng, 2048, 2048, bits)
        layer = Linear([matrix], int8=True)
        token, answer = floats(1, 2048), np.empty((1, 2048), np.float32)
        rows.append((f"linear 1 x 2048 -> 2048, {bits} bits, int8", "bytes of weights", matrix.nbytes,
                     lambda x=token, layer=layer, out=answer: kernels.linear(x, layer, out=out)))  # fmt: skip
    for length, heads, size in ((128, 12, 32), (512, 12, 64)):
        qkv, starts = floats(length, 3 * heads * size), np.array([0, length])
        for half in (False, True):
            name = f"attention {length} tokens, {heads} heads of {size}{', bfloat16' if half else ''}"
            call = partial(kernels.attention, qkv, starts, heads, 0.2, half=half)
            rows.append((name, "bf16" if half else "fp32", 4 * length * length * heads * size, call))
    hidden, ones, result = floats(128, 384), np.ones(384, np.float32), np.empty((128, 384), np.float32)
    rows.append(("layer norm with residual 128 x 384", "bytes", hidden.nbytes * 3,
                 lambda: kernels.layer_norm(hidden, ones, ones, 1e-5, residual=hidden, out=result)))  # fmt: skip
    rows.append(("quantise rows 128 x 384", "bytes", hidden.nbytes, lambda: kernels.quantize(hidden)))
    wide = floats(128, 1536)
    rows.append(("gelu 128 x 1536", "values", wide.size, lambda: kernels.activate(wide, "gelu")))
    table = random_matrix(rng, 30528, 384, 4)
    chosen = rng.integers(0, 30528, (1, 128), dtype=np.int32)
    rows.append(("embedding rows 128 of 30528 x 384, 4 bits", "values", hidden.size,
                 lambda: kernels.embed([table], chosen, gamma=ones, beta=ones, out=result)))  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--instruction-set", default=instruction_set(), choices=available())
    parser.add_argument("--seconds", type=float, default=0.3, help="spent on each kernel")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kernels = Kernels(arguments.threads, arguments.instruction_set)
    limits = {form: rate * arguments.threads for form, rate in peaks(kernels.instruction_set).items()}
    print(f"{kernels.instruction_set}, {kernels.threads} thread(s); peak " +
          (", ".join(f"{form} {rate / 1e9:.0f} GOP/s" for form, rate in limits.items()) or "not measured"))  # fmt: skip
    document: dict[str, Any] = {"instruction_set": kernels.instruction_set, "threads": kernels.threads,
                                "peaks": limits, "kernels": []}  # fmt: skip
    for name, counted, amount, run in cases(kernels, np.random.default_rng(0)):
        best, median = timed(run, arguments.seconds)
        rate = amount / best
        unit = "GB/s" if "bytes" in counted else "G/s" if counted == "values" else "GOP/s"
        share = f"{rate / limits[counted]:6.0%} of peak" if counted in limits else ""
        print(f"  {name:48} {best * 1e6:9.1f} us {rate / 1e9:8.1f} {unit:5} {share}")
        document["kernels"].append({"name": name, "counted": counted, "amount": amount, "best_s": best,
                                    "median_s": median})  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
