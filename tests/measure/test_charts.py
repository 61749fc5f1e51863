"""Charts: well-formed, everything inside the frame, order and provenance visible."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.measure.charts import Bar, Point, bars, scatter

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False).map(lambda value: round(value, 3))


def parsed(chart: str) -> ElementTree.Element:
    return ElementTree.fromstring(chart)


def frame(root: ElementTree.Element) -> tuple[float, float]:
    svg = root.find("svg")
    assert svg is not None
    width, height = svg.attrib["viewBox"].split()[2:]
    return float(width), float(height)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), numbers)
def test_points_keep_their_order_inside_the_frame(values: list[tuple[float, float]], limit: float) -> None:
    points = [Point(x, y, f"<{x}&{y}>") for x, y in values]
    chart = scatter(
        points, "x", "y", x_format=str, y_format=str, x_limit=(limit, "most"), y_limit=(limit, "least")
    )
    root = parsed(chart)
    width, height = frame(root)
    drawn = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in root.iter("circle")]
    assert len(drawn) == len(values)
    assert all(0 <= x <= width and 0 <= y <= height for x, y in drawn)
    for (x, y), (cx, cy) in zip(values, drawn, strict=True):
        for (other_x, other_y), (other_cx, other_cy) in zip(values, drawn, strict=True):
            assert not (x < other_x and cx > other_cx)
            assert not (y < other_y and cy < other_cy), "up is more"


def test_a_ring_for_what_is_not_measured_and_a_halo_for_the_marked() -> None:
    points = [Point(1, 1, "a"), Point(2, 2, "b", filled=False), Point(3, 3, "c", marked=True)]
    root = parsed(scatter(points, "x", "y", x_format=str, y_format=str))
    assert [dot.attrib["class"] for dot in root.iter("circle")] == [
        "measured",
        "modelled",
        "halo",
        "measured",
    ]
    assert [text.text for text in root.iter("text") if text.attrib["class"] == "mark-label"] == ["c"]


@given(st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1, max_size=8))
def test_bars_are_as_long_as_their_values(values: list[float]) -> None:
    root = parsed(bars([Bar("b", v, v * 0.9, v * 1.2, "text") for v in values], "t", tick_format=str))
    width, _ = frame(root)
    rows = [
        rect for rect in root.iter("rect") if "class" in rect.attrib and rect.attrib["class"] == "measured"
    ]
    lengths = [float(rect.attrib["width"]) for rect in rows]
    assert all(float(rect.attrib["x"]) + float(rect.attrib["width"]) < width for rect in rows)
    for value, length in zip(values, lengths, strict=True):
        assert length / max(lengths) == pytest.approx(value / max(values), abs=0.01)


def test_text_is_escaped() -> None:
    root = parsed(bars([Bar("<script>&", 1, 1, 1, '"quoted" <b>', filled=False)], "<t>", tick_format=str))
    assert "<script>&" in [text.text for text in root.iter("text")]
    assert root.find(".//script") is None
