"""Cambricon-LLM: weights that are multiplied inside flash, and codes that keep them right without a controller.

Speed is modelled from published geometry with no fitted factor; products, codes and RTL are exact and counted; accuracy
under bit errors is measured on `lm-8m`, whose matrices are kept at 8 bits with one scale each.
"""

from __future__ import annotations

import numpy as np

from ondevice.data.text import documentation
from ondevice.devices.simulate import flash
from ondevice.devices.simulate.flash_events import ablations
from ondevice.hardware.damage import PagedModel
from ondevice.hardware.ecc import OutlierECC, flip, flip_values
from ondevice.hardware.engines.flash import FlashMatrix
from ondevice.hardware.synthesize import cells
from ondevice.hardware.units.block_codes import BCHDecoder, HammingDecoder
from ondevice.hardware.units.flash_core import FlashCore, OutlierDecoder
from ondevice.hardware.units.simulated import run_core
from ondevice.measure.compare import Bar, Comparison, Evidence, absolute, ratio
from ondevice.measure.timing import Figure
from ondevice.models import zoo
from ondevice.systems.registry import Scale, system

UFS = 4e9  # bytes/s of UFS 4.0, which weights would be read from otherwise
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)  # of bits that turn over
# (matrices of a layer, layers, product with the vocabulary, heads, key-value heads)
OPT = ([(4096, 4096)] * 4 + [(16384, 4096)] * 2, 32, (50272, 4096), 32, 32)
LLAMA = ([(4096, 4096)] * 4 + [(11008, 4096)] * 3, 32, (32000, 4096), 32, 32)
SEVENTY = ([(8192, 8192)] * 2 + [(1024, 8192)] * 2 + [(28672, 8192)] * 3, 80, (32000, 8192), 64, 8)
# Published tokens/s at 1000 tokens of context, and how far ours may be from them.
PUBLISHED = (
    ("cambricon-s", "OPT-6.7B", OPT, 3.6, 0.15), ("cambricon-m", "OPT-6.7B", OPT, 11.0, 0.15),
    ("cambricon-l", "OPT-6.7B", OPT, 36.3, 0.15), ("cambricon-l", "Llama-2-7B", LLAMA, 36.34, 0.15),
    ("cambricon-l", "Llama-2-70B", SEVENTY, 3.44, 0.35),
)  # fmt: skip


@system("cambricon-llm")
def prove(scale: Scale) -> Evidence:
    """Modelled speed against published figures and ablations; exact products; accuracy under errors; RTL and cells."""
    tiny, rng = scale.name == "tiny", np.random.default_rng(scale.seed)
    speed, notes = _speed(requests=60 if tiny else 700)
    accuracy, more = _accuracy(rng, windows=2 if tiny else 12, draws=1 if tiny else 5)
    logic, counted = _logic(rng, pages=20 if tiny else 1000)
    return Evidence(*speed, *accuracy, *logic, notes=[*notes, *more, *counted])


def _work(sizes: tuple[list[tuple[int, int]], int, tuple[int, int], int, int]) -> flash.TokenWork:
    layer, layers, head, heads, cached = sizes
    counts = {"heads": heads, "cached_heads": cached, "head_size": 128, "context": 1000}
    return flash.decoder_work(layer, layers, head, **counts)


def _modelled(metric: str, baseline: float | None, ours: float, bar: Bar, unit: str = "") -> Comparison:
    return Comparison(metric, unit, baseline, ours, bar, kind="modelled")


def _speed(requests: int) -> tuple[list[Comparison], list[str]]:
    notes = ["published figures of OPT-6.7B are of a plot; Llama-2-7B's on S and M were not at hand"]
    comparisons, work = [], _work(OPT)
    for name, model, sizes, published, most in PUBLISHED:
        platform, own = flash.load(name), _work(sizes)
        time = flash.token_time(platform, own)
        flash.check(platform, own, time.tile, own.weights)
        off = abs(1 / time.seconds / published - 1)
        metric = f"{model} on {name}, off the published"
        comparisons.append(_modelled(metric, None, off, absolute("<=", most)))
        notes.append(f"{model} on {name}: {1 / time.seconds:.2f} tokens/s modelled, {published} published")
    for name in flash.names():
        array = flash.load(name).flash
        tile, start = flash.best_tile(array), array.cores * array.page
        sweep = [flash.Tile(start / 2 ** (k / 4), 2 ** (k / 4)) for k in range(16, 60)]
        least = min(sweep, key=lambda it: flash.rates(array, it).used)
        times = ablations(array, tile, 4096, requests)
        comparisons += [
            _modelled(f"{name}: events off equations", None, abs(times["equations"] - 1), absolute("<=", 0.05)),
            _modelled(f"{name}: time without slices", None, times["whole pages"], absolute(">", 1)),
            _modelled(f"{name}: time without tiles", None, times["rows"], absolute(">", 1)),
            _modelled(f"{name}: octaves from a sweep's best tile to the formula's", None,
                      float(abs(np.log2(least.width / tile.width))), absolute("<=", 0.13)),
        ]  # fmt: skip
        notes.append(f"{name}: time x{times['waiting']:.3f} where inputs wait for outputs 4 requests before")
    large = flash.load("cambricon-l")
    slow, fast = flash.offloading_time(large, work, UFS), flash.token_time(large, work).seconds
    metric = "OPT-6.7B on cambricon-l against offloading"
    return [*comparisons, _modelled(metric, 1 / slow, 1 / fast, ratio(">=", 22), "tokens/s")], notes


def _accuracy(rng: np.random.Generator, windows: int, draws: int) -> tuple[list[Comparison], list[str]]:
    """Next-token accuracy of lm-8m on unseen pages; the product of its matrices, shared with a processor."""
    zoo_model, code = zoo.open_zoo("lm-8m"), OutlierECC()
    encode = zoo_model.tokenizer.encode
    ids = [token for text in documentation().test.texts[:40] for token in encode(text).ids]
    model = PagedModel(zoo_model.module, np.reshape(ids[: windows * 257], (windows, 257)).tolist(), code.page)
    pages, spare, clean = model.pages, code.encode(model.pages), model.accuracy(model.pages)
    comparisons, notes = list[Comparison](), list[str]()
    for rate in RATES:
        bare, kept = [], []
        for _ in range(draws):
            bad, spare_bad = flip_values(pages, rate, rng), flip(spare, rate, rng)
            bare.append(clean - model.accuracy(bad))
            kept.append(max(0.0, clean - model.accuracy(code.decode(bad, spare_bad))))
        lost, rest = float(np.mean(bare)), float(np.mean(kept))
        notes.append(f"{rate:g} errors a bit: {lost:.4f} lost, {rest:.4f} with codes, of {clean:.4f}")
        if lost >= 0.10 and not comparisons:  # judged at the first rate that costs ten points
            before, after = (Figure.of(side, "", "measured") for side in (bare, kept))
            metric = f"accuracy lost at {rate:g} errors a bit"
            comparisons.append(Comparison(metric, "", before, after, ratio("<=", 0.25)))
    wrong, x = 0, rng.integers(-128, 128, 1024).astype(np.int8)
    for matrix in model.matrices:
        own = x[: matrix.shape[1]]
        made = FlashMatrix.store(matrix, code, 128, 0.69).multiply(own)
        wrong += int((made != matrix.astype(np.int64) @ own.astype(np.int64)).sum())
    found, spare_bytes = len(comparisons), code.spare_bits / 8
    return [
        *comparisons,
        Comparison("a rate costs ten points", "", None, found, absolute(">=", 1), kind="counted"),
        Comparison("shared products that differ", "", None, wrong, absolute("<=", 0), kind="counted"),
        Comparison("spare area of a page", "bytes", None, spare_bytes, absolute("<=", 1664), kind="counted"),
    ], notes


def _logic(rng: np.random.Generator, pages: int) -> tuple[list[Comparison], list[str]]:
    """RTL against the bit-accurate model on damaged pages, and what it costs beside the usual decoders."""
    code, columns = OutlierECC(), 256
    values = np.clip(rng.standard_normal((pages, code.page)) * 25, -127, 127).astype(np.int8)
    spare, x = code.encode(values), rng.integers(-128, 128, (pages, columns)).astype(np.int8)
    values, spare = flip_values(values, 1e-3, rng), flip(spare, 1e-3, rng)
    rows = code.decode(values, spare).astype(np.int32).reshape(pages, -1, columns)
    told = rows @ x[:, :, None].astype(np.int32)
    found, cycles = run_core(FlashCore(code, columns), values, spare, x)
    wrong, most = int((found != told[..., 0]).sum()), int(cycles.max())
    designs = (OutlierDecoder(code), FlashCore(code, columns), HammingDecoder(), BCHDecoder())
    costs = {type(design).__name__: cells(design) for design in designs}
    own, usual = costs["OutlierDecoder"].transistors, costs["BCHDecoder"].transistors
    notes = [
        f"{name}: {it.gates} gates, {it.flip_flops} flip-flops, about {it.transistors} transistors (counted by Yosys)"
        for name, it in costs.items()
    ] + [f"a page takes up to {most} cycles, so 30 us of array read need {most / 30:.0f} MHz"]
    metric = f"outputs of the RTL that differ, {pages} damaged pages"
    return [
        Comparison(metric, "", None, wrong, absolute("<=", 0), kind="counted"),
        Comparison("decoder beside BCH's, t = 8", "transistors", usual, own, ratio("<", 1), kind="counted"),
    ], notes
