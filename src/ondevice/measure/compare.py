"""Evidence: comparisons of ours with a baseline against bars; the verdict is computed, never written.

Knows figures and bars. Knows nothing of how the figures were got, nor of systems.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ondevice.errors import BadInput
from ondevice.measure.timing import Figure, Provenance

Relation = Literal["ratio", "difference", "absolute"]
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Bar:
    """What must hold of the medians: ours / baseline, ours - baseline, or ours alone, against a value."""

    relation: Relation
    op: str
    value: float

    def __post_init__(self) -> None:
        if self.relation not in get_args(Relation):
            raise BadInput(f"relation {self.relation!r} is none of {', '.join(get_args(Relation))}")
        if self.op not in _OPERATORS:
            raise BadInput(f"operator {self.op!r} is none of {', '.join(_OPERATORS)}")
        if not math.isfinite(self.value):
            raise BadInput(f"a bar must be finite, not {self.value}")


def ratio(op: str, value: float) -> Bar:
    """ours / baseline, as in `ratio("<=", 0.7)`: at most 0.7 of the baseline."""
    return Bar("ratio", op, value)


def difference(op: str, value: float) -> Bar:
    """ours - baseline, as in `difference(">=", -0.01)`: at most 0.01 below the baseline."""
    return Bar("difference", op, value)


def absolute(op: str, value: float) -> Bar:
    """ours alone, as in `absolute("<=", 2e-4)`."""
    return Bar("absolute", op, value)


@dataclass(frozen=True, init=False)
class Comparison:
    """One metric, ours and the baseline's, against a bar.

    baseline, ours: figures, or plain numbers of the given kind; the baseline may be None for an absolute bar.
    kind: how both were got; taken from `ours` where not given. Raises BadInput for figures of another kind or
    unit, NaN, and a ratio to a baseline that is not above zero.
    """

    metric: str
    unit: str
    baseline: Figure | None
    ours: Figure
    bar: Bar
    kind: Provenance

    def __init__(
        self,
        metric: str,
        unit: str,
        baseline: Figure | float | None,
        ours: Figure | float,
        bar: Bar,
        *,
        kind: Provenance | None = None,
    ) -> None:
        got = kind or (ours.kind if isinstance(ours, Figure) else "measured")
        ours = ours if isinstance(ours, Figure) else Figure.of([ours], unit, got)
        if baseline is not None and not isinstance(baseline, Figure):
            baseline = Figure.of([baseline], unit, got)
        for figure in (ours, baseline):
            if figure is not None and (figure.kind, figure.unit) != (got, unit):
                raise BadInput(
                    f"{metric}: cannot set {figure.kind} {figure.unit!r} against {got} {unit!r};"
                    " both sides need one kind and one unit"
                )
        if baseline is None and bar.relation != "absolute":
            raise BadInput(f"{metric}: a bar on a {bar.relation} needs a baseline")
        if baseline is not None and bar.relation == "ratio" and baseline.median <= 0:
            raise BadInput(f"{metric}: no ratio to a baseline of {baseline.median}; use a difference")
        fields = {"metric": metric, "unit": unit, "baseline": baseline, "ours": ours, "bar": bar, "kind": got}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def value(self) -> float:
        """What the bar is held against: the ratio, the difference, or ours."""
        if self.baseline is None or self.bar.relation == "absolute":
            return self.ours.median
        if self.bar.relation == "ratio":
            return self.ours.median / self.baseline.median
        return self.ours.median - self.baseline.median

    @property
    def holds(self) -> bool:
        return bool(_OPERATORS[self.bar.op](self.value, self.bar.value))

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "unit": self.unit,
            "kind": self.kind,
            "baseline": _side(self.baseline),
            "ours": _side(self.ours),
            "bar": dict(vars(self.bar)),
            "holds": self.holds,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Comparison:
        """Read what `to_json` wrote. The verdict is computed anew; one that differs is refused."""
        try:
            unit, kind = fields["unit"], fields["kind"]
            sides = [
                None if fields[side] is None else Figure(**fields[side], unit=unit, kind=kind)
                for side in ("baseline", "ours")
            ]
            if sides[1] is None:
                raise BadInput(f"{fields['metric']}: ours is missing")
            made = cls(fields["metric"], unit, sides[0], sides[1], Bar(**fields["bar"]))
            claimed = fields["holds"]
        except (KeyError, TypeError) as error:
            raise BadInput(f"not a comparison: {error}") from error
        if claimed is not made.holds:
            raise BadInput(f"{made.metric}: the verdict says {claimed} and the figures say {made.holds}")
        return made


@dataclass(frozen=True, init=False)
class Evidence:
    """Comparisons, and notes that a reader needs beside them. Holds where every comparison holds."""

    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]

    def __init__(self, *comparisons: Comparison, notes: tuple[str, ...] | list[str] = ()) -> None:
        if not comparisons:
            raise BadInput("evidence needs at least one comparison")
        object.__setattr__(self, "comparisons", tuple(comparisons))
        object.__setattr__(self, "notes", tuple(notes))

    @property
    def verdict(self) -> Literal["holds", "below"]:
        return "holds" if all(comparison.holds for comparison in self.comparisons) else "below"

    def to_json(self, slug: str) -> dict[str, Any]:
        """`{"slug", "verdict", "comparisons"}`, and `"notes"` where there are any."""
        document: dict[str, Any] = {
            "slug": slug,
            "verdict": self.verdict,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }
        return document | ({"notes": list(self.notes)} if self.notes else {})

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Evidence:
        """Read what `to_json` wrote; a verdict that the figures do not bear out is refused."""
        try:
            made = cls(
                *(Comparison.from_json(fields) for fields in document["comparisons"]),
                notes=document.get("notes", ()),
            )
            claimed = document["verdict"]
        except (KeyError, TypeError) as error:
            raise BadInput(f"not evidence: {error}") from error
        if claimed != made.verdict:
            raise BadInput(f"the verdict says {claimed!r} and the comparisons say {made.verdict!r}")
        return made


def _side(figure: Figure | None) -> dict[str, Any] | None:
    if figure is None:
        return None
    return {"median": figure.median, "min": figure.min, "max": figure.max, "n": figure.n}
