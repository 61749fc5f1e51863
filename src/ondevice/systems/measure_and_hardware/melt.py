"""MELT: chat workloads over models, quantisations and engines, unattended: what bounds them, what they cost.

Measured on this machine with random weights of published shapes (speed and memory do not depend on values); quality on
`reference-lm`, which this project trained on documentation.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.backends.peers.cells import GGUF_KINDS, measure_cell, prepare_cell
from ondevice.data.text import documentation
from ondevice.devices.roofline import Run, calibrate
from ondevice.kernels import Kernels
from ondevice.measure.campaign import Campaign, Setting, figures_of, run_campaign
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.here import measure_here
from ondevice.measure.quality.text import log_probabilities, perplexity
from ondevice.models import zoo
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.forecast import weight_bytes, work
from ondevice.runtime.weights.rounded import rounded
from ondevice.runtime.weights.safetensors import Checkpoint
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

MODELS = {
    "tiny": ("smollm2-135m",),
    "fast": ("smollm2-135m", "smollm2-360m", "llama-3.2-1b"),
    "full": ("smollm2-135m", "smollm2-360m", "llama-3.2-1b", "llama-3.2-3b"),
}
ENGINES = {"native": (4, 8), "llama.cpp": (4, 8, 16)}  # bits of each
POWER = "raspberry-pi-5"  # whose idle and active power the energy is modelled with: it says where energy goes
OVERSIZED: dict[str, Setting] = {"engine": "native", "model": "llama-3.1-8b", "bits": 8}
MEMORY = 6 * 10**9  # bytes a cell may have: the oversized one needs more
WINDOW = 256  # tokens of a text whose perplexity is taken


@system("melt")
def prove(scale: Scale) -> Evidence:
    """A campaign over models, bits and engines; what its rows say; perplexity against bits."""
    prompt, tokens, repeats = (32, 8, 1) if scale.name == "tiny" else (256, 24, max(3, scale.repeats // 4))
    work_of_a_cell = {"prompt": prompt, "tokens": tokens, "repeats": repeats}
    shared: dict[str, Setting] = {**work_of_a_cell, "threads": 1, "device": POWER}
    cells = [
        dict(shared, engine=engine, model=model, bits=bits)
        for model in MODELS[scale.name] for engine, all_bits in ENGINES.items() for bits in all_bits
    ]  # fmt: skip
    campaign = Campaign((*cells, OVERSIZED | shared), timeout=900, memory=MEMORY)
    with tempfile.TemporaryDirectory() as rows, tempfile.TemporaryDirectory() as scratch:
        *rows_made, oversized = run_campaign(
            campaign, measure_cell, Path(rows), prepare=lambda settings: prepare_cell(settings, Path(scratch))
        )
    table = [(row["settings"], figures_of(row)) for row in rows_made]
    refused = float(oversized["status"] == "out of memory")
    comparisons = [
        *_bounds(table),
        *_sizes(table, MODELS[scale.name][-1]),
        *_quality(windows=4 if scale.name == "tiny" else 40),
        Comparison("oversized cells ended as a row", "", None, refused, absolute(">=", 1), kind="counted"),
    ]
    notes = [
        f"{it['engine']} {it['model']} {it['bits']} bits: prefill {f['prefill'].median:.0f}, decode "
        f"{f['decode'].median:.1f} tokens/s, memory {f['memory'].median / 1e6:.0f} MB (measured); modelled with "
        f"the power of a {POWER}: {f['energy decode'].median / (tokens * repeats):.3g} J a token of the answer"
        for it, f in table
    ]
    return Evidence(
        *comparisons, notes=[*notes, f"the oversized cell: {oversized['status']}, {oversized['error']}"]
    )


def _bounds(table: list[tuple[Mapping[str, Any], Any]]) -> list[Comparison]:
    """Whether decode goes with the bytes that a token reads, prefill with arithmetic; what a roofline says of both."""
    comparisons, here = [], measure_here()
    for engine in ENGINES:
        own = [(it, f) for it, f in table if it["engine"] == engine]
        x = [math.log(f["bytes"].median) for _, f in own]
        y = [math.log(f["token"].median) for _, f in own]
        slope = float(np.polyfit(x, y, 1)[0])
        comparisons += [
            Comparison(f"{engine}: slope of time on bytes, least", "", None, slope, absolute(">=", 0.8)),
            Comparison(f"{engine}: slope of time on bytes, most", "", None, slope, absolute("<=", 1.15)),
        ]
        runs = []
        for it, f in own:
            form = f"tiles{it['bits']}" if engine == "native" else GGUF_KINDS[it["bits"]]
            config, prompt = SHAPES[it["model"]], it["prompt"]
            runs.append(Run(work(config, form, prompt + it["tokens"] / 2), f["token"].median, 1))
            runs.append(Run(work(config, form, prompt / 2, prompt), f["first"].median, 1))
        if len(runs) >= 6:
            error = calibrate(runs, here, holdout=0.5).median_error
            metric = f"{engine}: roofline off the half of runs it did not see"
            comparisons.append(Comparison(metric, "", None, error, absolute("<=", 0.25)))
    least = min(f["prefill"].median / f["decode"].median for _, f in table)
    phases = [f"energy {phase}" for phase in ("load", "prefill", "decode", "other")]
    off = max(abs(sum(f[name].median for name in phases) / f["energy"].median - 1) for _, f in table)
    comparisons += [
        Comparison("prefill over decode, least", "", None, least, absolute(">=", 4)),
        Comparison("energy of phases off the total", "", None, off, absolute("<=", 0.01), kind="modelled"),
    ]
    return comparisons


def _sizes(table: list[tuple[Mapping[str, Any], Any]], model: str) -> list[Comparison]:
    """Four bits beside sixteen: bytes of the weights, and what the process holds."""
    held = {it["bits"]: f["memory"] for it, f in table if (it["engine"], it["model"]) == ("llama.cpp", model)}
    wide, narrow = (weight_bytes(SHAPES[model], kind) for kind in ("bf16", "q4_0"))
    return [
        Comparison("weights, 4 against 16 bits", "bytes", wide, narrow, ratio("<=", 0.30), kind="counted"),
        Comparison("memory of llama.cpp, 4 against 16 bits", "bytes", held[16], held[4], ratio("<=", 0.7)),
    ]


def _quality(windows: int) -> list[Comparison]:
    """Perplexity of held-out documentation on our runtime, matrices rounded to nearest in groups of 32."""
    from tokenizers import Tokenizer

    folder = zoo.locate("reference-lm")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stream = [token for text in documentation().test.texts for token in tokenizer.encode(text).ids]
    checkpoint, config = Checkpoint(folder), zoo.open_zoo("reference-lm").config
    found = {}
    for bits in (16, 8, 4, 3):
        tensors = checkpoint if bits == 16 else rounded(checkpoint, bits)
        decoder = Decoder(tensors, config, Kernels(1), context=WINDOW)
        total = 0.0
        for start in range(0, windows * WINDOW, WINDOW):
            ids, sequence = stream[start : start + WINDOW + 1], decoder.cache.sequence()
            [logits] = decoder.step([(sequence, ids[:-1])], every=True)
            total += float(log_probabilities(logits, ids[1:]).sum())
            sequence.free()
        found[bits] = perplexity(total, windows * WINDOW)
    rises = [later / earlier - 1 for earlier, later in pairwise(found.values())]
    ours, three = found[8] / found[16] - 1, found[3] / found[16] - 1
    return [
        Comparison("perplexity, 8 bits", "", found[16], found[8], ratio("<", 1.01)),
        Comparison(
            "least rise of perplexity, 16 to 8 to 4 to 3 bits", "", None, min(rises), absolute(">", 0)
        ),
        Comparison("rise of perplexity, 3 against 8 bits", "", max(ours, 1e-9), three, ratio(">=", 5)),
    ]
