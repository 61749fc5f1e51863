"""Amounts: the prefix fits and the number reads back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.measure.amounts import amount

AMOUNTS = [(0.00241, "s", "2.41 ms"), (2.0, "s", "2 s"), (3e-6, "s", "3 µs"), (0, "s", "0 µs")]
AMOUNTS += [(15_912_345, "bytes", "15.91 MB"), (512, "bytes", "512 bytes"), (0.99512, "", "0.9951")]


@pytest.mark.parametrize("value, unit, text", [*AMOUNTS, (0.5, "points", "0.5 points")])
def test_amounts(value: float, unit: str, text: str) -> None:
    assert amount(value, unit) == text


@given(st.floats(min_value=1e-9, max_value=1e15), st.sampled_from(["s", "bytes", "J"]))
def test_an_amount_reads_back_as_the_value(value: float, unit: str) -> None:
    number, name = amount(value, unit).split(" ")
    scale = {
        "s": 1,
        "ms": 1e-3,
        "µs": 1e-6,
        "J": 1,
        "mJ": 1e-3,
        "µJ": 1e-6,
        "bytes": 1,
        "KB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
    }[name]
    assert float(number) * scale == pytest.approx(value, rel=1e-3)
