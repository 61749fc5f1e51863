"""Greenformers: a transformer whose linear layers are low-rank pairs, against the dense one and Linformer.

Time and memory on BERT-base's shape with random weights (they do not depend on values); quality on MiniLM's real
weights; learning from scratch on handwritten digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ondevice.compress.calibration import Calibration
from ondevice.compress.distill.states import distill
from ondevice.compress.factorize.lowrank import LowRank
from ondevice.compress.prune.unstructured import Sparsify
from ondevice.data.text import python_docs
from ondevice.measure.compare import Comparison, Evidence, absolute, difference, ratio
from ondevice.measure.memory import peak_memory_of
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import Figure
from ondevice.models.load import load
from ondevice.models.random import BERT_BASE, random_weights
from ondevice.models.text.linformer import with_linformer
from ondevice.systems.registry import Scale, system
from ondevice.train.scratch import learn_digits
from ondevice.train.step import forward_pass, training_step

ARMS = ("dense", "low rank", "linformer")
RANK = 0.45  # of break-even: with the embeddings, which stay, a little over half of BERT-base's parameters
PROJECTED = 128  # Linformer's k
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096)
SHARE = {"tiny": 16, "fast": 4, "full": 1}  # one text, and one training length, in so many is used
RANKS = (0.3, 0.5, 0.7, 0.9)
Part = tuple[list[Comparison], list[str]]


@system("greenformers")
def prove(scale: Scale) -> Evidence:
    """Speed, memory and cost; quality by rank, against other starts, and after distillation; from scratch."""
    parts = (_cost(scale), _quality(scale), _from_scratch(scale))
    comparisons = [each for found, _ in parts for each in found]
    return Evidence(*comparisons, notes=[note for _, notes in parts for note in notes])


def _cost(scale: Scale) -> Part:
    """Parameters, time and memory of the three arms on BERT-base's shape."""
    layers = 2 if scale.name == "tiny" else 12
    modules = {arm: _bert_base(arm, layers) for arm in ARMS}
    dense, smaller = (float(sum(p.numel() for p in modules[arm].parameters())) for arm in ARMS[:2])

    def by_length(act: Any, lengths: Sequence[int]) -> dict[int, dict[str, Figure]]:
        few = max(3, scale.repeats // 3)
        arms = {n: {arm: act(modules[arm], input_ids=_ids(n)) for arm in ARMS} for n in lengths}
        return {n: side_by_side(each, few, warmup=1) for n, each in arms.items()}

    reading = by_length(forward_pass, LENGTHS[:4] if scale.name == "tiny" else LENGTHS)
    learning = by_length(training_step, LENGTHS[1 : -1 : SHARE[scale.name] // 2 or 1])
    memory = {arm: peak_memory_of(_learn_once, arm, layers) for arm in ARMS}
    gain = {n: each["linformer"].median / each["low rank"].median for n, each in reading.items()}
    long = min((n for n in reading if n >= 512), key=gain.__getitem__)
    comparisons = [Comparison("parameters", "", dense, smaller, ratio("<=", 0.6), kind="counted")]
    for name, unit, of, bar in (
        ("inference, 128 tokens", "s", reading[128], ratio("<=", 1 / 1.3)),
        ("training step (so cost and carbon), 128 tokens", "s", learning[128], ratio("<=", 0.7)),
        ("peak memory of training, 128 tokens", "bytes", memory, ratio("<", 1.0)),
    ):
        comparisons.append(Comparison(name, unit, of["dense"], of["low rank"], bar))
    for n, op in ((64, ">="), (128, ">="), (long, "<")):
        name, of = f"linformer against low rank, {n} tokens", reading[n]
        comparisons.append(Comparison(name, "s", of["low rank"], of["linformer"], ratio(op, 1.0)))
    timed = [(f"inference, {n} tokens", each) for n, each in reading.items()]
    timed += [(f"training step, {n} tokens", each) for n, each in learning.items()]
    timed += [("peak memory of training in a fresh process, Python and torch included", memory)]
    crossing = next((str(n) for n in reading if gain[n] < 1), f"more than {LENGTHS[-1]}")
    notes = [f"{what}: " + ", ".join(f"{arm} {each[arm]}" for arm in ARMS) for what, each in timed]
    return comparisons, [
        *notes,
        f"linformer (k={PROJECTED}) is first faster than low rank at {crossing} tokens, of those tried; batch 1,"
        " PyTorch's fused attention",
        "cost and carbon of a step are in proportion to its time, at equal power, price and grid",
    ]


def _bert_base(arm: str, layers: int) -> Any:
    """BERT-base's encoder with random weights, dense or with its linear layers or its attention replaced."""
    model = random_weights(BERT_BASE | {"num_hidden_layers": layers, "max_position_embeddings": max(LENGTHS)})
    if arm == "low rank":
        model = LowRank(RANK, solver="random").apply(model)
    elif arm == "linformer":
        torch.manual_seed(0)
        model = with_linformer(model, PROJECTED, max(LENGTHS))
    return model.module.requires_grad_(True)  # in eval mode, so without dropout: all arms do the same work


def _ids(length: int) -> torch.Tensor:
    return torch.arange(1000, 1000 + length)[None]


def _learn_once(arm: str, layers: int) -> None:
    training_step(_bert_base(arm, layers), input_ids=_ids(128))()


def _quality(scale: Scale) -> Part:
    """MiniLM factorised at several ranks, set against other starts of as many weights, and distilled."""
    model, corpus, share = load("minilm"), python_docs(), SHARE[scale.name]
    test = corpus.test.take(range(0, len(corpus.test), share))
    calibration = Calibration(corpus.calibration.texts[:: 2 * share])
    words = [" ".join(text.split()[:16]) for text in corpus.calibration.texts[:: share // 4 or 1]]
    arms = {"original": model, "random 0.5": LowRank(0.5, solver="random", seed=scale.seed).apply(model)}
    arms |= {f"svd {rank}": LowRank(rank).apply(model, calibration) for rank in RANKS}
    arms |= {f"magnitude {rank}": Sparsify(1 - rank, "magnitude").apply(model) for rank in RANKS}
    arms["plain svd 0.5"] = plain = LowRank(0.5, whiten=False).apply(model)
    epochs = 4 if scale.name == "full" else 1
    arms["distilled"] = distill(plain, model, words, epochs=epochs, learning_rate=1e-3, seed=scale.seed)
    outputs = {arm: each.predict(test.texts) for arm, each in arms.items()}
    near = {arm: float(cosine(outputs["original"], output).mean()) for arm, output in outputs.items()}
    pairs = {arm: np.split(output, 2) for arm, output in outputs.items()}
    found = {arm: float(reciprocal_rank(q @ p.T).mean()) for arm, (q, p) in pairs.items()}
    comparisons = []
    for low, high in pairwise(RANKS):
        for metric, of, op in (("cosine", near, ">"), ("MRR@10", found, ">=")):
            name, bar = f"{metric}, rank {low} to {high}", difference(op, 0.0)
            comparisons.append(Comparison(name, "", of[f"svd {low}"], of[f"svd {high}"], bar))
    far, bar = near["random 0.5"], difference(">=", 0.3)
    comparisons.append(Comparison("cosine, SVD against random halves", "", far, near["svd 0.5"], bar))
    regained = (near["distilled"] - near["plain svd 0.5"]) / (1 - near["plain svd 0.5"])
    name = "share of the loss of plain SVD that distillation regains"
    comparisons.append(Comparison(name, "", None, regained, absolute(">=", 0.5)))
    return comparisons, [
        f"minilm, {arm}: cosine {near[arm]:.4f}, MRR@10 {found[arm]:.4f}, {len(test)} pairs" for arm in arms
    ]


def _from_scratch(scale: Scale) -> Part:
    """A small encoder trained dense and low-rank from random weights alike."""

    def thin(model: Any, seed: int) -> Any:
        return LowRank(0.45, layers="encoder.*", solver="random", seed=seed).apply(model)

    seeds = range(scale.seed, scale.seed + (5 if scale.name == "full" else scale.repeats // 3))
    dense, smaller = learn_digits(lambda model, seed: model, seeds), learn_digits(thin, seeds)
    sizes = float(dense.parameters), float(smaller.parameters)
    before, after = Figure.of(dense.accuracies, ""), Figure.of(smaller.accuracies, "")
    return [
        Comparison("digits: parameters", "", sizes[0], sizes[1], ratio("<=", 0.5), kind="counted"),
        Comparison("digits: accuracy from scratch", "", before, after, difference(">=", -0.01)),
    ], []
