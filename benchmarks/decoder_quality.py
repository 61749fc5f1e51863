"""What quantising a decoder costs: bytes, perplexity and divergence of our formats beside GGUF's Q4_0 and Q8_0.

Every arm runs on the native runtime; Q4_0 and Q8_0 are quantised and dequantised by the `gguf` package and run in
float32, as weights alone. A row that is no multiple of GGUF's 32 (llama.cpp would keep that matrix in F16) is
padded, and its padding not counted, in GGUF's favour. Judged on documentation that the model has not read; "bits"
are of all matrices, scales included. `--model` takes a folder of the Llama family too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import nn

from ondevice.backends.native import processors
from ondevice.compress.calibration import Calibration
from ondevice.compress.plan import describe
from ondevice.compress.planner import Limit, Menu, solve
from ondevice.compress.quantize.quantize import Quantize
from ondevice.data.text import documentation
from ondevice.kernels import Kernels
from ondevice.layers.store import to_stored
from ondevice.models.load import load
from ondevice.models.model import Model
from ondevice.runtime.decoder import Decoder
from ondevice.verbs.judge import Score, language_quality, score

Floats = npt.NDArray[np.float32]
Arm = tuple[str, Model, int]


def gguf_values(weight: Floats, kind: GGMLQuantizationType) -> tuple[Floats, int]:
    """The weight as GGUF keeps it, and the bytes that takes."""
    rows, columns = weight.shape
    packed = quants.quantize(np.pad(weight, ((0, 0), (0, -columns % 32))), kind)
    values: Floats = quants.dequantize(packed, kind)[:, :columns].copy()
    block, nbytes = GGML_QUANT_SIZES[kind]
    return values, rows * columns * nbytes // block


def rounded(model: Model, kind: GGMLQuantizationType) -> Arm:
    """Every matrix as GGUF's reference code stores it, and the bytes it takes there."""
    new: dict[str, nn.Module] = {}
    size = 0
    for name, layer in model.module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)):
            values, nbytes = gguf_values(layer.weight.numpy(), kind)
            size += nbytes
            linear = isinstance(layer, nn.Linear)
            copy = nn.Linear(1, 1, bias=False) if linear else nn.Embedding(1, 1)
            copy.weight = nn.Parameter(torch.from_numpy(values), requires_grad=False)
            if isinstance(layer, nn.Linear):
                copy.bias = layer.bias
            new[name] = copy
    return f"GGUF {kind.name}", model.with_modules(new), size


def matrix_bytes(model: Model) -> int:
    return sum(row["bytes"] for row in describe(model.module))


def arms(model: Model, calibration: Calibration) -> Iterator[Arm]:
    yield "float32", model, matrix_bytes(model)
    for kind in (GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0):
        yield rounded(model, kind)
    for bits, group_size in ((8, 128), (4, 32), (3, 32)):
        for method, activations in (("rtn", "float"), ("gptq", "float"), ("gptq", "int8")):
            made = Quantize(bits=bits, group_size=group_size, method=method, activations=activations)  # type: ignore[arg-type]
            fitted = made.apply(model, calibration)
            yield f"{method} {bits} bits, {activations} activations", fitted, matrix_bytes(fitted)
    menu = Menu(model, calibration)
    weights = matrix_bytes(model) // 4
    for target in (3.5, 3.7, 3.8, 4.0, 4.25):
        plan = solve(menu.choices, [Limit("storage", target * weights / 8, lambda choice: choice.nbytes)])
        fitted = menu.build(plan)
        yield f"plan {target} bits, int8 activations", fitted, matrix_bytes(fitted)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="reference-lm")
    parser.add_argument("--pages", type=int, default=40, help="held-out pages to judge by, 120 at most")
    parser.add_argument("--calibration", type=int, default=60, help="pages to calibrate with, 300 at most")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model, corpus = load(options.model), documentation()
    calibration = Calibration(corpus.calibration.texts[: options.calibration])
    windows = model.windows(corpus.test.texts[: options.pages])
    made = list(arms(model, calibration))
    kernels = Kernels(processors())
    decoders = [
        Decoder(to_stored(arm.module), model.config, kernels, context=max(len(w.ids) for w in windows))
        for _, arm, _ in made
    ]
    scores: list[list[Score]] = [[] for _ in made]
    for number, window in enumerate(windows):
        print(f"\r{number}/{len(windows)} windows", end="", file=sys.stderr)
        ids = torch.tensor([window.ids])
        with torch.inference_mode():
            original = model.outputs(ids, torch.ones_like(ids))[0, window.given - 1 : -1].numpy()
        for arm, decoder in enumerate(decoders):
            sequence = decoder.cache.sequence()
            logits = decoder.step([(sequence, window.ids)], every=True)[0][window.given - 1 : -1]
            sequence.free()
            scores[arm].append(score(original, logits, window))
    weights = matrix_bytes(model) / 4
    rows = []
    for (name, _, size), each in zip(made, scores, strict=True):
        metrics = language_quality(each)
        both = metrics["perplexity"]
        row: dict[str, Any] = {
            "arm": name,
            "bytes": size,
            "bits": 8 * size / weights,
            "perplexity": both.fitted,
        }
        row["change"] = both.fitted / both.original - 1
        row["interval"] = [end / both.original for end in both.interval]
        rows.append(row | {"divergence": metrics["divergence"].fitted})
    if options.json:
        print(json.dumps({"corpus": corpus.fingerprint(), "tokens": both.count, "rows": rows}, indent=1))
        return
    print(f"\r{both.count} held-out tokens, {len(windows)} windows\n")
    print(f"| {'':34} | bytes | bits a weight | perplexity | change | 95 % interval | divergence, nats |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        low, high = row["interval"]
        print(
            f"| {row['arm']:34} | {row['bytes']} | {row['bits']:.2f} | {row['perplexity']:.3f} "
            f"| {row['change']:+.2%} | {low:+.2%} to {high:+.2%} | {row['divergence']:.5f} |"
        )


if __name__ == "__main__":
    main()
