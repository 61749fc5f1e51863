"""The committed pages are what the committed results give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.systems import registry, render


def test_committed_pages_are_current() -> None:
    results = registry.results_folder()
    if results is None:
        pytest.skip("not an install of a repository")
    for name, text in render.pages().items():
        message = f"docs/systems/{name} is stale; run ondevice.systems.render.write_pages()"
        assert (results.parent / name).read_text(encoding="utf-8") == text, message


def test_the_index_lists_every_system() -> None:
    index = render.pages()["index.md"]
    assert all(entry.title in index for entry in registry.catalogue().values())
    assert index.count("\n| ") == 119 + 2 * 7


AMOUNTS = [(0.00241, "s", "2.41 ms"), (2.0, "s", "2 s"), (3e-6, "s", "3 µs"), (0, "s", "0 µs")]
AMOUNTS += [(15_912_345, "bytes", "15.91 MB"), (512, "bytes", "512 bytes"), (0.99512, "", "0.9951")]


@pytest.mark.parametrize("value, unit, text", [*AMOUNTS, (0.5, "points", "0.5 points")])
def test_amounts(value: float, unit: str, text: str) -> None:
    assert render.amount(value, unit) == text


@given(st.floats(min_value=1e-9, max_value=1e15), st.sampled_from(["s", "bytes"]))
def test_an_amount_reads_back_as_the_value(value: float, unit: str) -> None:
    number, name = render.amount(value, unit).split(" ")
    scale = {"s": 1, "ms": 1e-3, "µs": 1e-6, "bytes": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[name]
    assert float(number) * scale == pytest.approx(value, rel=0.01)
