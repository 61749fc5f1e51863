"""Choosing the next token from logits: greedily, or drawn from what temperature and cuts leave.

Knows logits and what was written before. Knows nothing of models. The order of the steps is transformers':
repetition, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    temperature: 0 takes the likeliest. top_k: of so many likeliest, 0 for all. top_p: of the fewest that together
    have this probability (Holtzman et al. 2020). min_p: of those with at least this share of the likeliest's
    probability (Nguyen et al. 2024). repetition: divides the logits of tokens that are there already (Keskar et
    al. 2019, eq. 2); 1 for none. seed: of the draws. report: how many of the likeliest tokens each choice names.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    seed: int = 0
    report: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, 100.0),
            ("top_k", 0, 1 << 31),
            ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0),
            ("repetition", 0.01, 100.0),
            ("report", 0, 1000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadInput(f"{name} must lie between {low:g} and {high:g}, not {value}")
        if self.top_p == 0:
            raise BadInput("top_p must be above 0; for the likeliest token set temperature to 0")

    def with_seed(self, seed: int) -> Sampling:
        """The same with another seed."""
        return replace(self, seed=seed)

    def sampler(self) -> Sampler:
        """What chooses the tokens of one text."""
        return Sampler(self)


@dataclass(frozen=True)
class Choice:
    """A token and the logarithm of its probability in the model's own distribution. others: the likeliest tokens
    there, likeliest first, as many as were asked for."""

    token: int
    logprob: float
    others: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one text. The same seed and logits give the same tokens."""

    def __init__(self, settings: Sampling) -> None:
        self.settings = settings
        self._random = np.random.default_rng(settings.seed)

    def choose(
        self, logits: Floats, before: Sequence[int] = (), allowed: npt.NDArray[np.bool_] | None = None
    ) -> Choice:
        """The next token. logits: (vocabulary,). before: all tokens so far, the prompt's too. allowed: which may come,
        (vocabulary,); all unless given.

        Raises BadInput for logits that are NaN.
        """
        raw = logits.astype(np.float64)
        if np.isnan(raw).any():
            raise BadInput("the logits are NaN; the weights are damaged or the activations overflowed")
        total = _log_sum(raw)
        token = self._pick(raw if allowed is None else np.where(allowed, raw, -np.inf), before)
        likeliest = np.argsort(-raw, kind="stable")[: self.settings.report] if self.settings.report else ()
        return Choice(
            token,
            float(raw[token] - total),
            tuple((int(other), float(raw[other] - total)) for other in likeliest),
        )

    def _pick(self, logits: Doubles, before: Sequence[int]) -> int:
        settings = self.settings
        if settings.repetition != 1.0 and len(before):
            seen = np.unique(np.asarray(before, np.int64))
            logits = logits.copy()
            values = logits[seen]
            logits[seen] = np.where(values < 0, values * settings.repetition, values / settings.repetition)
        if settings.temperature == 0:
            return int(logits.argmax())
        kept, probabilities = self.distribution(logits)
        draw = self._random.random() * probabilities.sum()
        return int(
            kept[min(int(np.searchsorted(np.cumsum(probabilities), draw, side="right")), len(kept) - 1)]
        )

    def distribution(self, logits: Doubles) -> tuple[npt.NDArray[np.int64], Doubles]:
        """The tokens that the cuts leave, likeliest first, and their probabilities (they sum to one)."""
        settings = self.settings
        scaled = logits / settings.temperature
        if 0 < settings.top_k < len(scaled):
            kept = np.argpartition(-scaled, settings.top_k - 1)[: settings.top_k]
        else:
            kept = np.arange(len(scaled))
        kept = kept[np.lexsort((kept, -scaled[kept]))]
        probabilities = np.exp(scaled[kept] - _log_sum(scaled[kept]))
        count = int((probabilities > 0).sum())  # what is not allowed is last
        kept, probabilities = kept[:count], probabilities[:count]
        if settings.top_p < 1:
            before = np.cumsum(probabilities) - probabilities
            count = max(1, int((before < settings.top_p).sum()))
            kept, probabilities = kept[:count], probabilities[:count] / probabilities[:count].sum()
        if settings.min_p > 0:
            count = int((probabilities >= settings.min_p * probabilities[0]).sum())
            kept, probabilities = kept[:count], probabilities[:count] / probabilities[:count].sum()
        return kept, probabilities


def _log_sum(logits: Doubles) -> float:
    top = float(logits.max())
    return top + float(np.log(np.exp(logits - top).sum()))
