"""GRATING: the best few of many candidates by a cross-encoder, without reading all of them to the end.

Quality and speed of leaving early on `rerank-tiny`, which this project trained, over candidates that BM25 and MiniLM
found among pages that it never read; memory on random weights of a published shape.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ondevice.backends.native import open_checkpoint
from ondevice.backends.peers.ranking import Load, open_ranking
from ondevice.backends.reranker import Reranker
from ondevice.data import corpora
from ondevice.errors import BadInput
from ondevice.measure.apart import Arm, Outcome, side_by_side_apart
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.quality.bm25 import BM25
from ondevice.measure.quality.retrieval import gamma
from ondevice.measure.timing import Figure
from ondevice.models import zoo
from ondevice.models.load import packaged
from ondevice.runtime.ranking.clusters import best_clusters
from ondevice.runtime.ranking.ranker import replay
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system
from ondevice.train.recipes.rerank_tiny import pairs

PLACES, PRECISION = 5, 0.99
# queries to calibrate on, to judge by, to time; candidates; passages among which they are found
SIZES = {"tiny": (4, 6, 2, 8, 40), "fast": (50, 60, 8, 40, 400), "full": (50, 300, 40, 40, 400)}
SMALL = {"num_hidden_layers": 6, "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768}
Scores = npt.NDArray[np.float64]


class Question(NamedTuple):
    """right: which of the passages answers the query, if one does."""

    query: str
    passages: list[str]
    right: int | None


@system("grating")
def prove(scale: Scale) -> Evidence:
    """Latency and agreement of leaving early against the whole model; memory of layers that stream."""
    calibrating, judged, timed, count, among = SIZES[scale.name]
    questions = _questions(calibrating + judged, count, among, scale.seed)
    samples, questions = questions[:calibrating], questions[calibrating:]
    with Reranker.open(zoo.locate("rerank-tiny"), threads=2) as reranker:
        threshold = reranker.calibrate([(it.query, it.passages) for it in samples], PLACES, PRECISION)
        traces = [reranker.trace(it.query, it.passages) for it in questions]
        lengths = [[len(reranker.tokens(it.query, each)) for each in it.passages] for it in questions]
        comparisons = _agreement(questions, traces, lengths, threshold)
        comparisons += _latency(reranker, questions[:timed], threshold)
    depths = ", ".join(f"{np.nanmean(row):.2f}" for row in np.transpose([_gammas(each) for each in traces]))
    note = f"threshold {threshold:.3f}, from {calibrating} other queries; gamma across clusters by layer: {depths}"
    return Evidence(*comparisons, *_memory(scale), notes=[note])


def _questions(count: int, candidates: int, among: int, seed: int) -> list[Question]:
    """Candidates of each query: half by BM25, half by MiniLM, the next of both where they name the same."""
    found = pairs(corpora.texts(corpora.make("test", max(60, among), seed=seed, domains=("python",))))
    texts = [found[it] for it in np.random.default_rng(seed).permutation(len(found))[:among]]
    passages = [passage for _, passage in texts]
    index, questions = BM25(passages), []
    with open_checkpoint(packaged("minilm")) as session:
        vectors, asked = session.embed(passages), session.embed([query for query, _ in texts])
    for number, (query, _) in enumerate(texts[:count]):
        orders = np.argsort([-index.scores(query), -(vectors @ asked[number])], kind="stable")
        both = list(dict.fromkeys(orders.T.ravel().tolist()))[:candidates]
        right = both.index(number) if number in both else None
        questions.append(Question(query, [passages[it] for it in both], right))
    return questions


def _agreement(
    questions: list[Question], traces: list[Scores], lengths: list[list[int]], threshold: float
) -> list[Comparison]:
    agree, found, kept, full = [], [0, 0], 0, 0
    for question, scores, sizes in zip(questions, traces, lengths, strict=True):
        best, left = replay(scores, PLACES, threshold)
        truth = set(np.argsort(-scores[-1], kind="stable")[:PLACES].tolist())
        agree.append(len(truth & set(best)) / PLACES)
        found = [found[0] + (question.right in truth), found[1] + (question.right in best)]
        kept, full = kept + int(left @ np.array(sizes)), full + len(scores) * sum(sizes)
    off = abs(found[0] - found[1]) / PLACES / len(questions)
    half = len(traces[0]) // 2
    crossing = [value for each in traces for value in _gammas(each)[half - 1 :] if np.isfinite(value)]
    return [
        Comparison("precision at 5 off the whole model's", "", None, off, absolute("<=", 0.01)),
        Comparison("share of the whole model's five", "", None, float(np.mean(agree)), absolute(">=", 0.97)),
        Comparison("tokens in layers left out", "", None, 1 - kept / full, absolute(">=", 0.35), kind="counted"),
        Comparison("gamma across clusters, later half", "", None, float(np.mean(crossing)), absolute(">=", 0.95)),
    ]  # fmt: skip


def _gammas(scores: Scores) -> list[float]:
    """Of each layer's scores and the last one's, over pairs in different clusters of that layer."""
    return [gamma(row, scores[-1], best_clusters(row)) for row in scores[:-1]]


def _latency(reranker: Reranker, questions: list[Question], threshold: float) -> list[Comparison]:
    """Seconds of a query: all candidates to the end together, one after another, and leaving early."""
    seconds: dict[str, list[float]] = {"together": [], "one by one": [], "early": []}
    for question in questions:
        for arm, found in seconds.items():
            reranker.threshold = threshold if arm == "early" else None
            groups = [[each] for each in question.passages] if arm == "one by one" else [question.passages]
            started = time.perf_counter()
            for group in groups:
                reranker.topk(question.query, group, PLACES)
            found.append(time.perf_counter() - started)
    figures = {arm: Figure.of(found, "s") for arm, found in seconds.items()}
    return [
        Comparison(f"latency against all {arm}", "s", figures[arm], figures["early"], ratio("<=", 0.65))
        for arm in ("together", "one by one")
    ]


def _memory(scale: Scale) -> list[Comparison]:
    """Layers that stream against everything in memory, float16, nobody leaving early."""
    shape = SHAPES["qwen3-0.6b"] | (SMALL if scale.name == "tiny" else {})
    load = Load(4, 32, 2) if scale.name == "tiny" else Load(20, 256, 5, seed=scale.seed)
    repeats = {"tiny": 1, "fast": 1, "full": 3}[scale.name]
    with tempfile.TemporaryDirectory() as scratch:
        write_random(Path(scratch) / "pack", shape, bits=16, seed=scale.seed)
        arms = {
            name: Arm(open_ranking, (Path(scratch) / "pack", load, name == "streamed"))
            for name in ("resident", "streamed")
        }
        found = side_by_side_apart(arms, repeats, warmup=0)
    resident, streamed = found["resident"], found["streamed"]
    if not isinstance(resident, Outcome) or not isinstance(streamed, Outcome):
        raise BadInput(f"arms without an outcome: {found}")
    where = f"{load.candidates} candidates of {load.tokens} tokens"
    return [
        Comparison(f"peak memory, {where}", "bytes", resident.peak_bytes, streamed.peak_bytes, ratio("<=", 0.30)),
        Comparison(f"time, {where}", "s", resident.seconds, streamed.seconds, ratio("<=", 1.3)),
        Comparison("choices that differ", "", None, resident.last != streamed.last, absolute("<=", 0), kind="counted"),
    ]  # fmt: skip
