"""A measured figure with its spread, and timing of a callable.

Knows clocks. Knows nothing of what it times, and compares nothing (see sidebyside).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ondevice.errors import BadInput

Provenance = Literal["measured", "modelled", "counted"]


@dataclass(frozen=True)
class Figure:
    """A number with its unit, its spread over n observations, and how it was got.

    kind: measured (observed here), modelled (from a device profile or a replayed trace) or counted (exact).
    samples: the observations in the order they were made, where they were kept.
    """

    median: float
    min: float
    max: float
    n: int
    unit: str
    kind: Provenance
    samples: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Provenance):
            raise BadInput(f"kind {self.kind!r} is none of {', '.join(get_args(Provenance))}")
        if not all(math.isfinite(value) for value in (self.median, self.min, self.max)):
            raise BadInput(f"a figure must be finite, not {self.min} to {self.max}, median {self.median}")
        if not self.min <= self.median <= self.max or self.n < 1:
            raise BadInput(f"not a spread: {self.min} <= {self.median} <= {self.max} over n={self.n}")

    @classmethod
    def of(cls, samples: Sequence[float], unit: str, kind: Provenance = "measured") -> Figure:
        """The figure of one or more observations."""
        if not samples:
            raise BadInput("no observations given")
        values = tuple(float(sample) for sample in samples)
        if not all(math.isfinite(value) for value in values):
            raise BadInput(f"observations must be finite, not {values}")
        return cls(statistics.median(values), min(values), max(values), len(values), unit, kind, values)

    @classmethod
    def counted(cls, value: float, unit: str) -> Figure:
        """An exact count."""
        return cls.of([value], unit, "counted")

    @classmethod
    def modelled(cls, value: float, unit: str) -> Figure:
        """One figure from a model."""
        return cls.of([value], unit, "modelled")

    def __str__(self) -> str:
        return f"{self.median:.3g} {self.unit} ({self.min:.3g} to {self.max:.3g}, n={self.n})"

    def to_json(self) -> dict[str, Any]:
        """All fields but the samples."""
        return {name: value for name, value in vars(self).items() if name != "samples"}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Figure:
        """Read what `to_json` wrote."""
        try:
            return cls(**fields)
        except TypeError as error:
            raise BadInput(f"not a figure: {error}") from error


def time_callable(function: Callable[[], object], repeats: int = 31, warmup: int = 3) -> Figure:
    """Seconds of one call: `warmup` calls that are not counted, then `repeats` that are."""
    if repeats < 1 or warmup < 0:
        raise BadInput(f"repeats must be at least 1 and warmup at least 0, not {repeats} and {warmup}")
    for _ in range(warmup):
        function()
    return Figure.of([seconds(function) for _ in range(repeats)], "s")


def seconds(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter_ns()
    function()
    return (time.perf_counter_ns() - start) / 1e9
