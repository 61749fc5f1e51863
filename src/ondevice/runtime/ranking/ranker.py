"""Candidates that go through a cross-encoder together, layer by layer, and leave when their fate is settled.

Knows layers, scores and places. Knows nothing of texts or tokenizers. Nothing is trained for it: after each layer the
model's own last norm and head score what the candidates have become. With `threshold` None nobody leaves early, and the
scores are those of the whole model.

Source: Zhou et al. 2025, "GRATING: Low-Latency and Memory-Efficient Semantic Selection on Device": monolithic
forwarding, progressive cluster pruning, chunked execution.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.runtime.ranking.clusters import Routes, route, variation

Floats = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Ids = Sequence[int]
_CHUNK = 1024  # tokens that are in a layer at a time


class Layered(Protocol):
    """A model that is run a layer at a time. States are float32 (tokens, hidden), texts one after another."""

    layers: int

    def embed(self, texts: Sequence[Ids]) -> Floats:
        """The states that enter the first layer."""
        ...

    def hold(self, number: int) -> AbstractContextManager[None]:
        """While the block runs, a layer's weights are in memory. Layers are held in order."""
        ...

    def run(self, number: int, states: Floats, lengths: Sequence[int]) -> None:
        """Put texts of so many tokens each through a layer, in place."""
        ...

    def scores(self, states: Floats, lengths: Sequence[int]) -> Scores:
        """What the model's head would say of each text in these states, between 0 and 1."""
        ...


@dataclass(frozen=True)
class Selection:
    """best: positions of the chosen, the best first. scores: of every candidate where it left, between 0 and 1.
    left: the layer before which each left; the number of layers where it saw all. tokens: through layers, summed."""

    best: list[int]
    scores: Scores
    left: npt.NDArray[np.int64]
    tokens: int


def select(
    model: Layered,
    texts: Sequence[Ids],
    places: int,
    *,
    threshold: float | None = None,
    chunk: int = _CHUNK,
) -> Selection:
    """The best `places` of some texts, each a query with a candidate as the model reads it.

    threshold: the coefficient of variation of scores above which clusters are told apart, see `calibrate`; None for
    every candidate to see every layer. chunk: tokens in a layer at a time; a text is never cut. Raises BadInput for no
    places, no texts, an empty text, and scores that are not numbers.
    """
    if places < 1 or not texts or not all(texts):
        raise BadInput(
            f"{places} places for {len(texts)} texts, none of them empty: there must be one of each at least"
        )
    lengths = np.array([len(text) for text in texts])
    states = model.embed(texts)
    alive, best = np.arange(len(texts)), list[int]()
    left = np.full(len(texts), model.layers)
    scores, tokens = np.zeros(len(texts)), 0
    prune = threshold is not None and places < len(texts)
    for number in range(model.layers):
        if prune and number:
            scores[alive] = model.scores(states, lengths[alive].tolist())
            routes = _settled(scores[alive], places - len(best), threshold)
            if routes is not None:
                best += alive[routes.selected].tolist()
                left[alive[np.concatenate([routes.selected, routes.dropped])]] = number
                states = _kept(states, lengths[alive], routes.open)
                alive = alive[routes.open]
                if not len(alive):
                    return Selection(best, scores, left, tokens)
        _run(model, number, states, lengths[alive].tolist(), chunk)
        tokens += len(states)
    scores[alive] = model.scores(states, lengths[alive].tolist())
    if not np.isfinite(scores).all():
        raise BadInput("a score is not a number; the model is damaged or its input was")
    order = alive[np.argsort(-scores[alive], kind="stable")]
    return Selection(best + order[: places - len(best)].tolist(), scores, left, tokens)


def trace(model: Layered, texts: Sequence[Ids], *, chunk: int = _CHUNK) -> Scores:
    """The scores of all texts before each layer but the first, and after the last: (layers, texts)."""
    lengths = [len(text) for text in texts]
    states, found = model.embed(texts), []
    for number in range(model.layers):
        _run(model, number, states, lengths, chunk)
        found.append(model.scores(states, lengths))
    return np.stack(found)


def replay(scores: Scores, places: int, threshold: float) -> tuple[list[int], npt.NDArray[np.int64]]:
    """(the best, the layer before which each left): what `select` would choose, from a trace.

    Texts do not see one another, so that none of their scores depends on who else has left.
    """
    layers, count = scores.shape
    alive, best, left = np.arange(count), list[int](), np.full(count, layers)
    for number in range(1, layers):
        routes = (
            _settled(scores[number - 1, alive], places - len(best), threshold) if places < count else None
        )
        if routes is not None:
            best += alive[routes.selected].tolist()
            left[alive[np.concatenate([routes.selected, routes.dropped])]] = number
            alive = alive[routes.open]
            if not len(alive):
                return best, left
    order = alive[np.argsort(-scores[-1, alive], kind="stable")]
    return best + order[: places - len(best)].tolist(), left


def calibrate(traces: Sequence[Scores], places: int, precision: float) -> float:
    """The lowest threshold with which, and above which, those chosen for sample queries are on average the share
    `precision` of what the whole model chooses.

    traces: of `trace`, one a query. Lower thresholds let candidates leave sooner; with the highest nobody left.
    """
    if not traces or not 0 < precision <= 1:
        raise BadInput("calibration takes sample queries, and a precision above 0 and at most 1")
    whole = [set(np.argsort(-each[-1], kind="stable")[:places].tolist()) for each in traces]
    seen = [variation(row) for each in traces for row in each[:-1]]
    lowest = max(seen)
    for threshold in np.quantile(seen, np.linspace(1, 0, 41)):
        kept = [
            len(truth & set(replay(each, places, float(threshold))[0])) / len(truth)
            for truth, each in zip(whole, traces, strict=True)
        ]
        if np.mean(kept) < precision:
            break
        lowest = float(threshold)
    return lowest


def _settled(scores: Scores, places: int, threshold: float | None) -> Routes | None:
    """Who leaves, where scores differ enough to tell."""
    if threshold is None or variation(scores) <= threshold:
        return None
    return route(scores, places)


def _kept(states: Floats, lengths: npt.NDArray[np.int64], kept: npt.NDArray[np.int64]) -> Floats:
    """The states of some of the texts."""
    ends = np.cumsum(lengths)
    rows = [np.arange(ends[each] - lengths[each], ends[each]) for each in kept]
    return np.ascontiguousarray(states[np.concatenate(rows)]) if rows else states[:0]


def _run(model: Layered, number: int, states: Floats, lengths: Sequence[int], chunk: int) -> None:
    """All texts through a layer, in runs of at most `chunk` tokens together, or of one text."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    first = 0
    with model.hold(number):
        while first < len(lengths):
            last = max(first + 1, int(np.searchsorted(ends, ends[first] + chunk, side="right")) - 1)
            model.run(number, states[ends[first] : ends[last]], lengths[first:last])
            first = last
