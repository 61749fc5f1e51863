"""Budgets: units mean what people mean by them, and nonsense is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.devices.budget import Budget, parse_bytes, parse_joules, parse_seconds, parse_share
from ondevice.errors import BadInput

SIZES = [("16MB", 16_000_000), ("16MiB", 16 * 2**20), ("1.5GB", 1_500_000_000), ("300KB", 300_000)]
SIZES += [("256 kib", 2**18), (".5k", 500), ("2e3", 2000), ("7", 7), ("1TB", 10**12), ("9B", 9)]


@pytest.mark.parametrize("text, size", SIZES)
def test_bytes(text: str | float, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text, seconds", [("40ms", 0.04), ("2s", 2), ("250us", 2.5e-4), (0.1, 0.1), ("1min", 60)]
)
def test_seconds(text: str | float, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text, joules", [("2J", 2), ("150mJ", 0.15), ("1Wh", 3600), (3, 3)])
def test_joules(text: str | float, joules: float) -> None:
    assert parse_joules(text) == pytest.approx(joules)


@given(st.integers(min_value=1, max_value=10**15))
def test_a_bare_number_is_bytes_however_it_is_written(size: int) -> None:
    assert parse_bytes(size) == parse_bytes(str(size)) == parse_bytes(f" {size} B ") == size


NONSENSE = ["", "MB", "16 MBs", "-3MB", "0", "0.0MB", "nan", "inf", "1e999", "1,5GB", "16MB 2", "0.1B", "٣MB"]
NONSENSE += ["40ms", "+", "0x10", "1__0"]


@pytest.mark.parametrize("amount", [*NONSENSE, math.nan, math.inf, -1, 0, True, None, [1]])
def test_nonsense_is_refused_by_name(amount: Any) -> None:
    with pytest.raises(BadInput, match="storage"):
        parse_bytes(amount, "storage")


def test_case_matters_where_it_changes_the_meaning() -> None:
    with pytest.raises(BadInput):
        parse_joules("2MJ")
    with pytest.raises(BadInput):
        parse_seconds("2MS")


def test_a_budget_takes_numbers_and_text_and_keeps_numbers() -> None:
    budget = Budget(
        storage="16MB", memory=2**20, latency="40ms", energy="2J", bandwidth="300KB", quality=0.995
    )
    assert budget == Budget(16_000_000, 1_048_576, 0.04, 2.0, 300_000, 0.995)
    assert Budget() == Budget(None, None, None, None, None, None)


@pytest.mark.parametrize("quality", [0, -0.5, 1.5, math.nan, "high", True])
def test_quality_is_a_share(quality: Any) -> None:
    with pytest.raises(BadInput, match="quality"):
        Budget(quality=quality)


@pytest.mark.parametrize("text, share", [("20%", 0.2), ("0%", 0), (" 12.5% ", 0.125), ("0.3", 0.3), (1, 1)])
def test_shares(text: str | float, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["20", "-1%", "101%", "%", "a fifth", "nan", "", float("nan")])
def test_what_is_no_share_is_refused(text: str | float) -> None:
    with pytest.raises(BadInput, match="as in 20%"):
        parse_share(text)
