"""How good and how fast a fitted model is, beside the one it came from.

Knows sessions, test texts and measures. Used by `fit` and `bench`; changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ondevice.measure.quality.classification import agreement, correct
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.measure.sidebyside import paired_bootstrap

if TYPE_CHECKING:
    from ondevice.backends.session import Session
    from ondevice.data.text import Texts
    from ondevice.models.tasks import Floats


@dataclass(frozen=True)
class Quality:
    """A metric of the original and of the fitted model on the same texts.

    interval: 95 % paired bootstrap of fitted - original.
    """

    original: float
    fitted: float
    interval: tuple[float, float]
    count: int

    def to_json(self) -> dict[str, Any]:
        return {
            "original": self.original,
            "fitted": self.fitted,
            "difference_interval": list(self.interval),
            "count": self.count,
        }


def quality(original: Floats, fitted: Floats, data: Texts, *, embedding: bool) -> dict[str, Quality]:
    """The metrics that a task and its data allow, by name; the first is the one a plan is judged by.

    original, fitted: of `judged_texts(data)`: embeddings (texts, dimension), or class logits or probabilities
        (texts, labels).
    """
    if not embedding:
        same = agreement(original, fitted)
        metrics = {"agreement": _compare(np.ones_like(same), same)}
        if data.labels and all(isinstance(label, int) for label in data.labels):
            labels = np.asarray(data.labels)
            metrics["accuracy"] = _compare(correct(original, labels), correct(fitted, labels))
        return metrics
    angles = cosine(original, fitted)
    metrics = {"cosine": _compare(np.ones_like(angles), angles)}
    if data.queries:
        count = len(data.queries)
        ranks = [reciprocal_rank(both[:count] @ both[count:].T) for both in (original, fitted)]
        metrics["MRR@10"] = _compare(ranks[0], ranks[1])
    return metrics


def judged_texts(data: Texts, most: int) -> Texts:
    """At most so many rows, evenly from all."""
    step = max(1, -(-len(data) // most))
    return data.take(range(0, len(data), step))


def one_text(session: Session, data: Sequence[str], tokens: int) -> list[int]:
    """Token ids of a real text of exactly so many tokens (fewer only where the data has no more)."""
    joined: list[int] = []
    for text in data:
        joined += session.tokenizer.encode(text, add_special_tokens=False).ids
        if len(joined) >= tokens:
            break
    special = session.tokenizer.num_special_tokens_to_add(False)
    text = session.tokenizer.decode(joined[: tokens - special])
    ids: list[int] = session.tokenizer.encode(text).ids[:tokens]
    return ids


def _compare(original: Any, fitted: Any) -> Quality:
    low, high = paired_bootstrap(original, fitted, lambda a, b: float(b.mean() - a.mean()))
    return Quality(float(np.mean(original)), float(np.mean(fitted)), (low, high), len(original))
