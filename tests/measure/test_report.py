"""The report: whole, self-contained, escaped; figures shown with how they were got; bad input refused."""

from __future__ import annotations

import copy
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ondevice.errors import BadInput
from ondevice.measure.report import write_report

VOID = {"meta", "line", "circle", "rect", "br"}


def document() -> dict[str, Any]:
    latency = {"median_ms": 3.9, "min_ms": 3.6, "max_ms": 6.2, "n": 31}
    entry = {"storage_bytes": 15.8e6, "quality": 0.9957, "modelled_latency_ms": 41.0}
    return {
        "title": "minilm for raspberry-pi-4",
        "command": "ondevice fit minilm --storage 16MB",
        "device": "raspberry-pi-4",
        "artifact": "fitted/",
        "budget": {"storage": 16_000_000, "memory": None, "latency": 0.05, "quality": 0.99},
        "provenance": {"licence": "Apache-2.0", "data": {"name": "python-docs", "count": 3012}},
        "meets_budget": True,
        "storage_bytes": 15_912_345,
        "original_storage_bytes": 90_868_376,
        "memory_bytes": None,
        "quality": {"cosine": {"original": 1, "fitted": 0.9957}},
        "latency": [
            dict(latency, where="here, native", kind="measured"),
            dict(latency, where="raspberry-pi-4", kind="modelled", median_ms=41, min_ms=41, max_ms=41, n=1),
        ],
        "plan": [
            {"layer": "encoder.0.query", "technique": "quantize", "settings": {"bits": 4}, "bytes": 82_944},
            {"layer": "encoder.0.key", "technique": "lowrank", "settings": {"rank": 0.5}, "bytes": 4_000},
        ],
        "pareto": [
            dict(entry, chosen=True, kind="measured"),
            dict(entry, storage_bytes=12e6, quality=0.98, chosen=False, kind="modelled"),
        ],
    }


class Page(HTMLParser):
    """Collects text and attributes, and insists that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(tmp_path: Path, fit: dict[str, Any]) -> Page:
    return Page(write_report(tmp_path / "report.html", fit).read_text(encoding="utf-8"))


def test_it_shows_the_fit(tmp_path: Path) -> None:
    shown = page(tmp_path, document())
    words = " ".join(shown.words)
    for expected in (
        "15.91 MB",
        "17.5% of 90.87 MB",
        "0.9957",
        "encoder.0.key",
        "rank 0.5",
        "82.94 KB",
        "41 ms",
    ):
        assert expected in words
    for expected in ("ondevice fit minilm --storage 16MB", "budget 16 MB", "floor 0.99", "meets the budget"):
        assert expected in words
    for expected in (
        "3.9 ms (3.6 to 6.2, 31 runs)",
        "41 ms",
        "latency 50 ms",
        "name python-docs, count 3012",
    ):
        assert expected in words


def test_it_needs_nothing_else(tmp_path: Path) -> None:
    shown = page(tmp_path, document())
    assert not {"script", "link", "img", "iframe", "object"} & set(shown.tags)
    assert not [name for name, _ in shown.attributes if name in ("src", "href") or name.startswith("on")]
    text = (tmp_path / "report.html").read_text()
    assert "http" not in text
    assert "@import" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_modelled_is_never_drawn_as_measured(tmp_path: Path) -> None:
    fit = document()
    for entry in [*fit["latency"], *fit["pareto"]]:
        entry["kind"] = "modelled"
    shapes = [value for name, value in page(tmp_path, fit).attributes if name == "class"]
    assert shapes.count("modelled") == 4
    assert "measured" not in shapes


def test_text_is_escaped(tmp_path: Path) -> None:
    fit = document()
    evil = '<script>alert("x")</script>'
    fit.update(
        title=evil,
        command=evil,
        device=evil,
        provenance={evil: evil},
        quality={evil: fit["quality"]["cosine"]},
    )
    fit["plan"][0].update(layer=evil, technique=evil, settings={evil: evil})
    fit["latency"][0]["where"] = evil
    shown = page(tmp_path, fit)
    assert "script" not in shown.tags
    assert evil in shown.words


def test_a_fit_without_plans_or_latency_still_reports(tmp_path: Path) -> None:
    fit = document()
    fit.update(pareto=[], latency=[], plan=[], budget={}, meets_budget=False)
    words = " ".join(page(tmp_path, fit).words)
    assert "misses the budget" in words
    assert "no limits" in words


@pytest.mark.parametrize("field", sorted(set(document()) - {"original_storage_bytes"}))
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    fit = document()
    del fit[field]
    with pytest.raises(BadInput, match=field):
        write_report(tmp_path / "report.html", fit)
    assert not list(tmp_path.iterdir())


NUMBERS = [
    ("storage_bytes",),
    ("quality", "cosine", "fitted"),
    ("latency", 0, "median_ms"),
    ("plan", 0, "bytes"),
]


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, "12", True])
def test_what_is_no_number_is_refused(path: tuple[Any, ...], value: Any, tmp_path: Path) -> None:
    fit: Any = copy.deepcopy(document())
    inner = fit
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BadInput, match="numbers"):
        write_report(tmp_path / "report.html", fit)


def test_a_kind_that_is_none_is_refused(tmp_path: Path) -> None:
    fit = document()
    fit["latency"][0]["kind"] = "guessed"
    with pytest.raises(BadInput, match="guessed"):
        write_report(tmp_path / "report.html", fit)
