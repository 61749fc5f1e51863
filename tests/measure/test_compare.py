"""Evidence: the verdict follows from the figures alone, and what cannot be compared is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.compare import Bar, Comparison, Evidence, absolute, difference, ratio
from ondevice.measure.timing import Figure

positive = st.floats(min_value=1e-6, max_value=1e6)


@given(baseline=positive, ours=positive, value=positive)
def test_relations(baseline: float, ours: float, value: float) -> None:
    assert Comparison("m", "s", baseline, ours, ratio("<=", value)).holds == (ours / baseline <= value)
    assert Comparison("m", "s", baseline, ours, difference(">=", value)).holds == (ours - baseline >= value)
    assert Comparison("m", "s", baseline, ours, absolute("<", value)).holds == (ours < value)
    assert Comparison("m", "s", None, ours, absolute(">", value)).holds == (ours > value)


def test_the_document_of_the_issue() -> None:
    slow, fast = Figure.of([2.0, 2.2, 2.1], "s"), Figure.of([1.0, 1.1, 1.4], "s")
    evidence = Evidence(Comparison("latency", "s", slow, fast, ratio("<=", 0.7)))
    assert evidence.to_json("greenformers") == {
        "slug": "greenformers",
        "verdict": "holds",
        "comparisons": [
            {
                "metric": "latency",
                "unit": "s",
                "kind": "measured",
                "baseline": {"median": 2.1, "min": 2.0, "max": 2.2, "n": 3},
                "ours": {"median": 1.1, "min": 1.0, "max": 1.4, "n": 3},
                "bar": {"relation": "ratio", "op": "<=", "value": 0.7},
                "holds": True,
            }
        ],
    }


def test_one_comparison_below_its_bar_is_enough() -> None:
    good = Comparison("m", "", 1.0, 0.5, ratio("<=", 0.7), kind="counted")
    bad = Comparison("m", "", 1.0, 0.9, ratio("<=", 0.7), kind="counted")
    assert Evidence(good).verdict == "holds"
    assert Evidence(good, bad, good).verdict == "below"


def test_read_back_and_a_verdict_by_hand_is_refused() -> None:
    evidence = Evidence(
        Comparison("a", "bytes", 10, 9, ratio("<=", 0.7), kind="counted"),
        Comparison("b", "", None, 1e-5, absolute("<=", 2e-4)),
        notes=["the speed claim belongs to Apple silicon"],
    )
    document = json.loads(json.dumps(evidence.to_json("x")))
    assert Evidence.from_json(document).to_json("x") == document
    assert document["verdict"] == "below"
    lies: list[Any] = [dict(document, verdict="holds"), json.loads(json.dumps(document))]
    lies[1]["comparisons"][0]["holds"] = True
    for lie in lies:
        with pytest.raises(BadInput, match="verdict says"):
            Evidence.from_json(lie)
    for broken in ({}, dict(document, comparisons=[{}]), dict(document, comparisons=[])):
        with pytest.raises(BadInput):
            Evidence.from_json(broken)


def test_what_cannot_be_compared() -> None:
    measured, modelled = Figure.of([1.0], "s"), Figure.modelled(1.0, "s")
    with pytest.raises(BadInput, match="one kind"):
        Comparison("m", "s", modelled, measured, ratio("<=", 1))
    with pytest.raises(BadInput, match="one kind"):
        Comparison("m", "s", measured, measured, ratio("<=", 1), kind="counted")
    with pytest.raises(BadInput, match="one unit"):
        Comparison("m", "ms", measured, measured, ratio("<=", 1))
    with pytest.raises(BadInput, match="needs a baseline"):
        Comparison("m", "s", None, measured, ratio("<=", 1))
    with pytest.raises(BadInput, match="no ratio"):
        Comparison("m", "s", 0.0, measured, ratio("<=", 1))
    with pytest.raises(BadInput, match="finite"):
        Comparison("m", "s", 1.0, math.nan, ratio("<=", 1))
    with pytest.raises(BadInput, match="finite"):
        ratio("<=", math.nan)
    with pytest.raises(BadInput, match="operator"):
        ratio("==", 1.0)
    with pytest.raises(BadInput, match="relation"):
        Bar("percent", "<=", 1.0)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="at least one"):
        Evidence()
