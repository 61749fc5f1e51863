"""How good and how fast a fitted model is, beside the one it came from.

Knows sessions, test texts and measures, one judge a kind of model. Used by `fit` and `bench`; changes nothing.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ondevice.artifact import Artifact
from ondevice.backends import open_session
from ondevice.errors import BadInput
from ondevice.measure.quality.classification import agreement, correct
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.quality.retrieval import reciprocal_rank
from ondevice.measure.quality.text import bits_per_byte, divergences, log_probabilities, perplexity
from ondevice.measure.sidebyside import paired_bootstrap, side_by_side

if TYPE_CHECKING:
    from ondevice.backends.language import LanguageSession
    from ondevice.backends.session import Session
    from ondevice.data.text import Texts
    from ondevice.devices.roofline import Operation
    from ondevice.measure.timing import Figure
    from ondevice.models.model import Model
    from ondevice.models.tasks import Floats, Window

TOKENS = 128  # of the text, or before the token, that latency is given for
_ROUNDS = 21


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


@dataclass(frozen=True)
class Verdict:
    """metrics: the first is the one a plan is judged by. level: what a floor on quality is held against.
    times: of "fitted" and "original", for what the judge's `inference` says."""

    metrics: dict[str, Quality]
    level: float
    times: dict[str, Figure]


class Judge(ABC):
    """Compares fitted models with the one they came from.

    inference: what a latency is of. rows: how many tokens a linear layer sees in it.
    """

    inference: str
    rows: int

    def __init__(self, original: Model) -> None:
        self.original = original

    @abstractmethod
    def loss(self, fitted: Model, texts: Sequence[str]) -> float:
        """What is lost on these texts, by torch; 0 for nothing."""

    @abstractmethod
    def verdict(self, folder: Path, data: Texts, progress: Callable[[str, float], None]) -> Verdict:
        """How an artifact does as a user would open it."""

    @abstractmethod
    def command(self, folder: Path, text: str) -> list[str]:
        """One inference in a process of its own, whose memory is measured."""

    @abstractmethod
    def work(self, model: Model) -> list[Operation]:
        """The operations of one inference."""


def judge_of(original: Model) -> Judge:
    """The judge for a model's kind of task."""
    return LanguageJudge(original) if original.task.kind == "language" else EncoderJudge(original)


class EncoderJudge(Judge):
    """Embeddings by their cosine and as a search, classes by agreement and accuracy."""

    inference, rows = f"{TOKENS} tokens", TOKENS

    def loss(self, fitted: Model, texts: Sequence[str]) -> float:
        """Mean 1 - cosine, or share of changed classes."""
        measure = cosine if self.original.task.kind == "embedding" else agreement
        return 1 - float(measure(self.original.predict(texts), fitted.predict(texts)).mean())

    def verdict(self, folder: Path, data: Texts, progress: Callable[[str, float], None]) -> Verdict:
        import torch

        embedding = self.original.task.kind == "embedding"
        with open_session(Artifact(folder)) as session:
            progress("judging the fitted model", 0.0)
            ours = session.embed(data.texts) if embedding else session.classify(data.texts)
            progress("judging the original", 0.5)
            theirs = self.original.predict(data.texts)
            metrics = quality(theirs, ours, data, embedding=embedding)
            progress("timing both", 0.8)
            ids = one_text(session, data.texts, min(TOKENS, self.original.task.max_length))
            row, mask = torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
            run = session.hidden if embedding else session.logits
            with torch.inference_mode():
                times = side_by_side(
                    {"fitted": lambda: run([ids]), "original": lambda: self.original.outputs(row, mask)},
                    _ROUNDS,
                )
        return Verdict(metrics, next(iter(metrics.values())).fitted, times)

    def command(self, folder: Path, text: str) -> list[str]:
        return [sys.executable, "-m", "ondevice", "run", str(folder), text]

    def work(self, model: Model) -> list[Operation]:
        from ondevice.models.work import encoder_work

        return encoder_work(model, TOKENS)


class LanguageJudge(Judge):
    """Decoders by perplexity, bits a byte, and divergence of the next token's distribution."""

    inference, rows = f"a token after {TOKENS}", 1

    def loss(self, fitted: Model, texts: Sequence[str]) -> float:
        """Mean divergence from the original a token, nats."""
        parts = [
            divergences(self._logits(self.original, window), self._logits(fitted, window))
            for window in self.original.windows(texts)
        ]
        return float(np.concatenate(parts).mean())

    def verdict(self, folder: Path, data: Texts, progress: Callable[[str, float], None]) -> Verdict:
        """On the runtime, as it will run. level: the original's perplexity over the fitted one's, 1 for no loss."""
        from ondevice.backends.language import LanguageSession
        from ondevice.backends.native import processors

        windows = self.original.windows(data.texts)
        longest = max(TOKENS + 1, *(len(window.ids) for window in windows))
        scores = []
        with LanguageSession.open(folder, threads=processors(), context=longest) as session:
            for number, window in enumerate(windows):
                progress("judging both", number / len(windows))
                theirs = self._logits(self.original, window)
                scores.append(score(theirs, runtime_logits(session, window), window))
            progress("timing both", 0.8)
            times = self._times(session, max((window.ids for window in windows), key=len))
        metrics = language_quality(scores)
        both = metrics["perplexity"]
        return Verdict(metrics, both.original / both.fitted, times)

    def command(self, folder: Path, text: str) -> list[str]:
        room = min(TOKENS, self.original.task.max_length // 2)
        tokenizer = self.original.tokenizer
        prompt = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids[:room])
        options = ["--prompt", prompt, "--limit", "8", "--context", str(self.original.task.max_length)]
        return [sys.executable, "-m", "ondevice", "run", str(folder), *options]

    def work(self, model: Model) -> list[Operation]:
        from ondevice.models.work import decoder_work

        return decoder_work(model, TOKENS)

    def _logits(self, model: Model, window: Window) -> Floats:
        import torch

        ids = torch.tensor([window.ids])
        with torch.inference_mode():
            rows: Floats = model.outputs(ids, torch.ones_like(ids))[0, window.given - 1 : -1].float().numpy()
        return rows

    def _times(self, session: LanguageSession, ids: list[int]) -> dict[str, Figure]:
        """Of one more token, what came before being in both caches."""
        import torch
        from transformers import DynamicCache

        before, token = ids[: min(TOKENS, len(ids) - 1)], ids[-1:]
        decoder = session.engine.decoder
        sequence, past = decoder.cache.sequence(), DynamicCache()
        decoder.step([(sequence, before)])

        def fitted() -> None:
            decoder.step([(sequence, token)])
            sequence.rollback(len(before))

        def original() -> None:
            self.original.module(input_ids=torch.tensor([token]), past_key_values=past, use_cache=True)
            past.crop(-1)  # the one token

        with torch.inference_mode():
            self.original.module(input_ids=torch.tensor([before]), past_key_values=past, use_cache=True)
            times = side_by_side({"fitted": fitted, "original": original}, _ROUNDS)
        sequence.free()
        return times


@dataclass(frozen=True)
class Score:
    """Sums over one window. original, fitted: log-probability of the judged tokens. divergence: nats."""

    tokens: int
    nbytes: int
    original: float
    fitted: float
    divergence: float


def score(original: Floats, fitted: Floats, window: Window) -> Score:
    """Of the logits (judged tokens, vocabulary) that two models give for a window."""
    targets = window.ids[window.given :]
    return Score(
        window.judged,
        window.nbytes,
        float(log_probabilities(original, targets).sum()),
        float(log_probabilities(fitted, targets).sum()),
        float(divergences(original, fitted).sum()),
    )


def runtime_logits(session: LanguageSession, window: Window) -> Floats:
    """Before each judged token of a window, as the runtime computes them, (judged, vocabulary)."""
    decoder = session.engine.decoder
    sequence = decoder.cache.sequence()
    try:
        rows = decoder.step([(sequence, window.ids)], every=True)[0]
    finally:
        sequence.free()
    return rows[window.given - 1 : -1]


def language_quality(scores: Sequence[Score]) -> dict[str, Quality]:
    """Perplexity a token, bits a byte, and mean divergence from the original in nats a token. Intervals are over
    windows drawn with repetition. Raises BadInput for fewer than two windows."""
    if len(scores) < 2:
        raise BadInput("the texts to judge with are a single window; give more of them, or longer ones")
    tokens, nbytes, original, fitted, divergence = np.array(
        [[s.tokens, s.nbytes, s.original, s.fitted, s.divergence] for s in scores]
    ).T
    no_loss = np.zeros(len(scores))

    def compare(kind: Callable[[float, int], float], left: Any, right: Any, sizes: Any) -> Quality:
        def value(sums: Any, rows: Any = slice(None)) -> float:
            return kind(float(sums[rows].sum()), int(sizes[rows].sum()))

        def difference(rows: Any, _: Any) -> float:
            drawn = rows.astype(np.int64)
            return value(right, drawn) - value(left, drawn)

        places = np.arange(len(scores), dtype=np.float64)
        low, high = paired_bootstrap(places, places, difference)
        return Quality(value(left), value(right), (low, high), int(tokens.sum()))

    return {
        "perplexity": compare(perplexity, original, fitted, tokens),
        "bits a byte": compare(bits_per_byte, original, fitted, nbytes),
        "divergence": compare(lambda sums, size: sums / size, no_loss, divergence, tokens),
    }


def _compare(original: Any, fitted: Any) -> Quality:
    low, high = paired_bootstrap(original, fitted, lambda a, b: float(b.mean() - a.mean()))
    return Quality(float(np.mean(original)), float(np.mean(fitted)), (low, high), len(original))
