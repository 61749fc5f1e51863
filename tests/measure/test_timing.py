"""Figures and timing: spread is kept, nonsense refused, calls counted."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.timing import Figure, time_callable


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=30))
def test_a_figure_is_its_samples(samples: list[float]) -> None:
    figure = Figure.of(samples, "s")
    assert (figure.min, figure.max, figure.n) == (min(samples), max(samples), len(samples))
    assert figure.median == statistics.median(samples)
    back = Figure.from_json(figure.to_json())
    assert (back.median, back.kind, back.unit) == (figure.median, "measured", "s")


def test_timing_calls_as_often_as_it_says() -> None:
    calls = []
    figure = time_callable(lambda: calls.append(1), repeats=7, warmup=2)
    assert (len(calls), figure.n, len(figure.samples), figure.unit) == (9, 7, 7, "s")


def test_nonsense_is_refused() -> None:
    for samples in ([], [math.nan], [1.0, math.inf]):
        with pytest.raises(BadInput):
            Figure.of(samples, "s")
    with pytest.raises(BadInput, match="kind"):
        Figure.of([1.0], "s", "guessed")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="spread"):
        Figure(2.0, 3.0, 4.0, 1, "s", "measured")
    with pytest.raises(BadInput, match="repeats"):
        time_callable(lambda: None, repeats=0)
    with pytest.raises(BadInput, match="not a figure"):
        Figure.from_json({"median": 1})
