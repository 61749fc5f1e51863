"""Greenformers: a transformer whose linear layers are low-rank pairs, against the dense one and Linformer.

Time and memory on BERT-base's shape with random weights (they do not depend on values); quality on MiniLM's real
weights; learning from scratch on handwritten digits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ondevice.data.text import Texts, python_docs
from ondevice.errors import MissingExtra
from ondevice.measure.compare import Comparison, Evidence, absolute, difference, ratio
from ondevice.measure.memory import peak_memory_of
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import Figure
from ondevice.systems.registry import Scale, system

BERT_BASE = {"model_type": "bert", "vocab_size": 30522, "max_position_embeddings": 2048}
ARMS = ("dense", "low rank", "linformer")
RANK = 0.45  # of break-even: with the embeddings, which stay, a little over half of BERT-base's parameters
PROJECTED = 128  # Linformer's k
LENGTHS = (64, 128, 256, 512, 1024, 2048)
RANKS = (0.3, 0.5, 0.7, 0.9)


@system("greenformers")
def prove(scale: Scale) -> Evidence:
    """Speed, memory and cost; quality by rank, against other starts, and after distillation; from scratch."""
    try:
        import sklearn  # type: ignore[import-untyped]  # noqa: F401
        import torch
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "demo", "to prove greenformers") from error
    torch.manual_seed(scale.seed)
    parts = (_cost(scale), _quality(scale), _from_scratch(scale))
    return Evidence(
        *(comparison for comparisons, _ in parts for comparison in comparisons),
        notes=[note for _, notes in parts for note in notes],
    )


def _cost(scale: Scale) -> tuple[list[Comparison], list[str]]:
    """Parameters, time and memory of the three arms on BERT-base's shape."""
    modules = {arm: _bert_base(arm) for arm in ARMS}
    counts = {arm: float(sum(p.numel() for p in modules[arm].parameters())) for arm in ARMS}
    few = max(3, scale.repeats // 3)
    reading = {
        length: side_by_side({arm: partial(_infer, modules[arm], length) for arm in ARMS}, few, warmup=1)
        for length in LENGTHS
    }
    learning = {
        length: side_by_side({arm: _learner(modules[arm], length) for arm in ARMS}, few, warmup=1)
        for length in (LENGTHS if scale.name == "full" else (128, 512))
    }
    memory = {arm: peak_memory_of(_learn_once, arm, 128) for arm in ARMS}
    linformer = {n: each["linformer"].median / each["low rank"].median for n, each in reading.items()}
    long = min((n for n in LENGTHS if n >= 512), key=linformer.__getitem__)
    short, step = reading[128], learning[128]
    comparisons = [
        Comparison("parameters", "", counts["dense"], counts["low rank"], ratio("<=", 0.6), kind="counted"),
        Comparison("inference, 128 tokens", "s", short["dense"], short["low rank"], ratio("<=", 1 / 1.3)),
        Comparison("training step, 128 tokens", "s", step["dense"], step["low rank"], ratio("<=", 0.7)),
        Comparison("peak memory of training", "bytes", memory["dense"], memory["low rank"], ratio("<", 1.0)),
        *(
            Comparison(
                f"linformer against low rank, {n} tokens",
                "s",
                reading[n]["low rank"],
                reading[n]["linformer"],
                ratio(">=" if n < 256 else "<", 1.0),
            )
            for n in (64, 128, long)
        ),
    ]
    crossing = next((str(n) for n in LENGTHS if linformer[n] < 1), "beyond 2048")
    notes = [f"inference at {n} tokens: {_milliseconds(each)}" for n, each in reading.items()]
    notes += [f"training step at {n} tokens: {_milliseconds(each)}" for n, each in learning.items()]
    notes += [
        f"linformer (k={PROJECTED}) first faster than low rank at: {crossing} tokens, of those tried; batch 1",
        "at equal power, price and carbon a joule, a step's cost is in proportion to its time",
        "peak memory is of a fresh process, Python and torch included: "
        + ", ".join(f"{arm} {figure.median / 1e6:.0f} MB" for arm, figure in memory.items()),
    ]
    return comparisons, notes


def _bert_base(arm: str) -> Any:
    """BERT-base's encoder with random weights, dense or with its linear layers or its attention replaced."""
    import torch
    from torch import nn

    from ondevice.compress.factorize.lowrank import rank_of
    from ondevice.layers.factorized import LowRankLinear
    from ondevice.models.load import skeleton
    from ondevice.models.model import Model
    from ondevice.models.tasks import Task
    from ondevice.models.text.linformer import LinformerSelfAttention

    def pair(name: str, layer: nn.Linear) -> nn.Module:
        rank = rank_of(layer, RANK) or 1
        down = nn.Linear(layer.in_features, rank, bias=False, device="meta")
        return LowRankLinear(down, nn.Linear(rank, layer.out_features, device="meta"))

    task = Task("embedding")
    model = Model(skeleton(BERT_BASE, task), None, task)
    module: Any = model.replace(nn.Linear, by=pair).module if arm == "low rank" else model.module
    if arm == "linformer":
        for layer in module.encoder.layer:
            layer.attention.self = LinformerSelfAttention(layer.attention.self, PROJECTED, max(LENGTHS))
    for name, parameter in list(module.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        values = torch.empty(parameter.shape).normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.02)
        setattr(module.get_submodule(parent), leaf, nn.Parameter(values))
    return module.eval()  # no dropout: the same work in both directions


def _infer(module: Any, length: int) -> None:
    import torch

    with torch.inference_mode():
        module(input_ids=torch.arange(1000, 1000 + length)[None])


def _learner(module: Any, length: int) -> Callable[[], None]:
    """One step of AdamW on one sequence."""
    import torch

    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)
    ids = torch.arange(1000, 1000 + length)[None]

    def step() -> None:
        module(input_ids=ids).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _learn_once(arm: str, length: int) -> None:
    _learner(_bert_base(arm), length)()


def _quality(scale: Scale) -> tuple[list[Comparison], list[str]]:
    """MiniLM factorised at several ranks, set against other starts of as many weights, and distilled."""
    from ondevice.compress.calibration import Calibration
    from ondevice.compress.distill.states import distill
    from ondevice.compress.factorize.lowrank import LowRank
    from ondevice.compress.prune.unstructured import Sparsify
    from ondevice.models.load import load

    model, corpus = load("minilm"), python_docs()
    test = corpus.test.take(range(len(corpus.test) if scale.name == "full" else 300))
    calibration = Calibration(corpus.calibration.texts[:: 2 if scale.name == "full" else 8])
    original = model.predict(test.texts)
    plain = LowRank(0.5, whiten=False).apply(model)
    words = [" ".join(text.split()[:16]) for text in corpus.calibration.texts]
    taught = distill(
        plain, model, words, epochs=4 if scale.name == "full" else 1, learning_rate=1e-3, seed=scale.seed
    )
    arms = {f"svd {rank}": LowRank(rank).apply(model, calibration) for rank in RANKS}
    arms |= {f"magnitude {rank}": Sparsify(1 - rank, "magnitude").apply(model) for rank in RANKS}
    arms["random 0.5"] = LowRank(0.5, solver="random", seed=scale.seed).apply(model)
    arms |= {"unwhitened svd 0.5": plain, "unwhitened svd 0.5, distilled": taught}
    scores = {arm: _scores(original, each.predict(test.texts), test) for arm, each in arms.items()}
    near = {arm: score[0] for arm, score in scores.items()}
    found = {arm: score[1] for arm, score in scores.items()}
    comparisons = [
        Comparison(f"{metric}, rank {low} to {high}", "", of[f"svd {low}"], of[f"svd {high}"], bar)
        for low, high in pairwise(RANKS)
        for metric, of, bar in (
            ("cosine", near, difference(">", 0.0)),
            ("MRR@10", found, difference(">=", 0.0)),
        )
    ]
    before, after = near["unwhitened svd 0.5"], near["unwhitened svd 0.5, distilled"]
    comparisons += [
        Comparison("cosine, SVD against random halves", "", near["random 0.5"], near["svd 0.5"],
                   difference(">=", 0.3)),
        Comparison("share of the loss that distillation regains", "", None, (after - before) / (1 - before),
                   absolute(">=", 0.5)),
    ]  # fmt: skip
    mrr = _scores(original, original, test)[1]
    notes = [f"minilm, original: MRR@10 {mrr:.4f}, {len(test)} pairs of {test.name}, {test.version}"]
    notes += [f"minilm, {arm}: cosine {near[arm]:.4f}, MRR@10 {found[arm]:.4f}" for arm in scores]
    return comparisons, notes


def _scores(original: Any, fitted: Any, test: Texts) -> tuple[float, float]:
    """(mean cosine to the original embeddings, MRR@10) of a retrieval set: its queries, then its passages."""
    queries, passages = np.split(fitted, 2)
    return float(cosine(original, fitted).mean()), float(reciprocal_rank(queries @ passages.T).mean())


def _from_scratch(scale: Scale) -> tuple[list[Comparison], list[str]]:
    """A small encoder that reads digits row by row, trained dense and low-rank from random weights alike."""
    import torch
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    from torch import nn
    from transformers import BertConfig, BertForSequenceClassification

    from ondevice.compress.factorize.lowrank import LowRank
    from ondevice.models.model import Model
    from ondevice.models.tasks import Task

    images, labels = load_digits(return_X_y=True)
    accuracy: dict[str, list[float]] = {"dense": [], "low rank": []}
    counts: dict[str, float] = {}
    for seed in range(scale.seed, scale.seed + (5 if scale.name == "full" else 3)):
        train_x, test_x, train_y, test_y = (
            torch.from_numpy(part)
            for part in train_test_split(
                (images / 8 - 1).reshape(-1, 8, 8).astype(np.float32), labels, test_size=0.25,
                stratify=labels, random_state=seed,
            )
        )  # fmt: skip
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
            max_position_embeddings=8, num_labels=10,
        )  # fmt: skip
        net = nn.ModuleDict({"rows": nn.Linear(8, 64), "encoder": BertForSequenceClassification(config)})
        dense = Model(net.eval(), None, Task("classification"))
        smaller = LowRank(0.45, layers="encoder.*", solver="random", seed=seed).apply(dense)
        for arm, model in (("dense", dense), ("low rank", smaller)):
            counts[arm], learned = _learn_digits(model, train_x, train_y, seed)
            accuracy[arm].append(float((learned(test_x) == test_y).float().mean()))
    figures = {arm: Figure.of(values, "") for arm, values in accuracy.items()}
    return [
        Comparison("digits: parameters", "", counts["dense"], counts["low rank"], ratio("<=", 0.5),
                   kind="counted"),
        Comparison("digits: accuracy from scratch", "", figures["dense"], figures["low rank"],
                   difference(">=", -0.01)),
    ], []  # fmt: skip


def _learn_digits(model: Any, images: Any, labels: Any, seed: int) -> tuple[float, Callable[[Any], Any]]:
    """(parameters, the classifier that a copy of the model becomes)."""
    import torch
    from torch.nn import functional

    from ondevice.train.loop import descend

    module = copy.deepcopy(model.module).requires_grad_(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network gains nothing by more

    def logits(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = module["encoder"](inputs_embeds=module["rows"](x)).logits
        return result

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits(images[rows]), labels[rows])

    batches = torch.arange(len(images)).tensor_split(len(images) // 32)
    descend(module.parameters(), loss, batches, epochs=20, learning_rate=2e-3, weight_decay=0.01, seed=seed)
    torch.set_num_threads(threads)

    def classify(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return logits(x).argmax(dim=1)

    return float(sum(parameter.numel() for parameter in module.parameters())), classify


def _milliseconds(arms: dict[str, Figure]) -> str:
    return (
        ", ".join(
            f"{arm} {1e3 * figure.median:.0f} ms ({1e3 * figure.min:.0f} to {1e3 * figure.max:.0f})"
            for arm, figure in arms.items()
        )
        + f", n={next(iter(arms.values())).n}"
    )
