"""The report of a fit: one self-contained HTML page, without script or network.

Knows the document that `fit --json` prints. Knows nothing of how the fit was made; it shows figures, each
with how it was got, and adds none of its own but ratios of those shown.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput
from ondevice.measure.amounts import amount
from ondevice.measure.charts import Bar, Point, bars, scatter

Document = Mapping[str, Any]

_STYLE = """
:root{--ink:#1c2330;--soft:#5b6576;--line:#e3e7ee;--ground:#f6f7fa;--card:#fff;--blue:#2459c9;--amber:#b26a00;
--green:#1d7a46;--red:#b3261e}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:980px;margin:0 auto;padding:40px 20px 64px}
h1{font-size:1.8rem;line-height:1.2;margin:0 0 8px}
h2{font-size:1.15rem;margin:0 0 4px}
p{margin:0 0 12px}.soft{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:22px 24px;
margin-top:20px}
pre{background:#eef1f6;border-radius:8px;padding:12px 14px;margin:16px 0 0;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.88rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:16px;margin-top:20px}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px}
.card .name{color:var(--soft);font-size:.86rem}
.card .big{font-size:1.55rem;font-weight:650;line-height:1.3}
.card .from{color:var(--soft);font-size:.9rem}
.badge{display:inline-block;border-radius:99px;padding:0 9px;font-size:.76rem;line-height:1.65;
font-weight:600;border:1px solid;vertical-align:middle;white-space:nowrap}
.badge.measured{color:var(--blue);border-color:#b9caf0;background:#eef3fe}
.badge.modelled{color:var(--amber);border-color:#eccb98;background:#fdf5e7}
.badge.counted{color:var(--soft);border-color:#cfd5df;background:#f3f5f8}
.badge.yes{color:var(--green);border-color:#a8d8bd;background:#ebf7f0}
.badge.no{color:var(--red);border-color:#ecb5b1;background:#fdeeed}
.scroll{overflow-x:auto;margin-top:12px}
.chart{min-width:540px;margin-top:12px}.chart svg{width:100%;height:auto;display:block}
svg text{font-size:13px;fill:var(--ink)}svg .tick{fill:var(--soft);font-size:12px}
svg .title{fill:var(--soft)}svg .label{font-size:13px}svg .value{font-size:12.5px;fill:var(--soft)}
svg .grid{stroke:var(--line)}svg .limit{stroke:var(--red);stroke-dasharray:5 4}
svg .limit-label{fill:var(--red);font-size:12px}svg .mark-label{font-weight:650}
svg circle.measured{fill:var(--blue)}svg circle.modelled{fill:#fff;stroke:var(--amber);stroke-width:2}
svg .halo{fill:none;stroke:var(--green);stroke-width:2.5}
svg rect.measured{fill:var(--blue)}svg rect.modelled{fill:url(#hatch);stroke:var(--amber)}
svg .hatch-ground{fill:#fdf0da}svg .hatch-line{stroke:#dfa34e;stroke-width:3}
svg .whisker{stroke:var(--ink);stroke-width:1.5}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th{text-align:left;color:var(--soft);font-weight:600}
td.settings{white-space:nowrap}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:middle}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.layer{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.84rem}
.size{background:#e8ecf4;border-radius:3px;height:12px;width:110px}
.size span{display:block;height:12px;border-radius:3px;background:var(--blue)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 18px;margin:12px 0 0;font-size:.92rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media (max-width:560px){main{padding:24px 12px}section{padding:16px 14px}dl{grid-template-columns:1fr}}
@media print{body{background:#fff}section,.card{break-inside:avoid}}
"""


def write_report(path: Path, fit: Document) -> Path:
    """Write the report of a fit; the path.

    fit: the document of `fit --json` ("artifact", "meets_budget", "storage_bytes", "memory_bytes", "quality",
    "latency", "plan", "pareto") with "title", "command", "device" (a name), "budget" (limits by name) and
    "provenance" (what a reader needs to reproduce it, by name). May have "original_storage_bytes",
    "original_memory_bytes", and "memory_kind", which says how the memory was got. A pareto entry has
    "storage_bytes", "quality", "modelled_latency_ms", "chosen" and "kind". Raises BadInput for a document
    that lacks a field or holds a number that is not finite.
    """
    try:
        page = _page(fit)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"not the document of a fit: {type(error).__name__} {error}") from error
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_text(page, encoding="utf-8")
    draft.replace(path)
    return path


def _page(fit: Document) -> str:
    body = [_head(fit), _cards(fit), _pareto(fit), _latency(fit), _plan(fit), _provenance(fit)]
    return page(str(fit["title"]), body)


def page(title: str, body: Iterable[str]) -> str:
    """A whole page of parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(fit: Document) -> str:
    met = '<span class="badge yes">meets the budget</span>'
    missed = '<span class="badge no">misses the budget</span>'
    limits = ", ".join(f"{name} {_limit(name, value)}" for name, value in _limits(fit)) or "no limits"
    return (
        f"<h1>{escape(str(fit['title']))}</h1>"
        f'<p class="soft">For {escape(str(fit["device"]))}; budget: {escape(limits)} '
        f"{met if fit['meets_budget'] else missed}</p>"
        f"<p>{badge('measured')} observed here&ensp;{badge('modelled')} computed from a device's profile"
        f"&ensp;{badge('counted')} exact</p><pre>{escape(str(fit['command']))}</pre>"
    )


def _cards(fit: Document) -> str:
    cards = []
    for name, kind in (("storage", "counted"), ("memory", fit.get("memory_kind"))):
        if fit[f"{name}_bytes"] is not None:
            after, before = _finite(fit[f"{name}_bytes"]), fit.get(f"original_{name}_bytes")
            part = "" if before is None else f"{after / _finite(before):.1%} of {amount(before, 'bytes')}"
            cards.append(_card(name, amount(after, "bytes"), part, kind))
    for metric, both in fit["quality"].items():
        before, after = _finite(both["original"]), _finite(both["fitted"])
        cards.append(
            _card(metric, f"{after:.4f}", f"original {before:.4f}, {after - before:+.4f}", "measured")
        )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(name: str, big: str, small: str, kind: str | None) -> str:
    return (
        f'<div class="card"><div class="name">{escape(name)} {badge(kind) if kind else ""}</div>'
        f'<div class="big">{escape(big)}</div><div class="from">{escape(small)}</div></div>'
    )


def _pareto(fit: Document) -> str:
    entries = fit["pareto"]
    if not entries:
        return ""
    points = []
    for entry in entries:
        storage, quality = _finite(entry["storage_bytes"]), _finite(entry["quality"])
        label = f"{amount(storage, 'bytes')}, {quality:.4f}"
        latency = entry.get("modelled_latency_ms")
        if latency is not None and not entry["chosen"]:
            label += f", {_finite(latency):.3g} ms modelled"
        points.append(Point(storage / 1e6, quality, label, _measured(entry["kind"]), bool(entry["chosen"])))
    budget = dict(_limits(fit))
    limit, floor = budget.get("storage"), budget.get("quality")
    chart = scatter(
        points,
        "storage, MB",
        "quality",
        x_format=lambda value: f"{value:g}",
        y_format=lambda value: f"{value:.5g}",
        x_limit=None if limit is None else (limit / 1e6, f"budget {amount(limit, 'bytes')}"),
        y_limit=None if floor is None else (floor, f"floor {floor:g}"),
    )
    about = "Each dot is a plan, the kept one is circled. Full dots are measured, hollow ones modelled."
    return section("Plans", about, f'<div class="scroll">{chart}</div>')


def _latency(fit: Document) -> str:
    items = []
    for entry in fit["latency"]:
        median, low, high = (_finite(entry[f"{name}_ms"]) for name in ("median", "min", "max"))
        measured = _measured(entry["kind"])
        text = f"{median:.3g} ms" + (f" ({low:.3g} to {high:.3g}, {entry['n']} runs)" if measured else "")
        items.append(Bar(str(entry["where"]), median, low, high, text, measured))
    if not items:
        return ""
    chart = bars(items, "milliseconds an inference", tick_format=lambda value: f"{value:g}")
    about = "Full bars are measured medians with the least and the most; hatched bars are modelled."
    return section("Latency", about, f'<div class="scroll">{chart}</div>')


def _plan(fit: Document) -> str:
    rows = fit["plan"]
    largest = max((_finite(row["bytes"]) for row in rows), default=0) or 1
    cells = []
    for row in rows:
        share = 100 * row["bytes"] / largest
        cells.append(
            f'<tr><td class="layer">{escape(str(row["layer"]))}</td><td>{escape(str(row["technique"]))}</td>'
            f'<td class="settings">{escape(_settings(row["settings"]))}</td>'
            f'<td class="number">{amount(row["bytes"], "bytes")}</td>'
            f'<td><div class="size"><span style="width:{share:.1f}%"></span></div></td></tr>'
        )
    head = '<tr><th>layer</th><th>technique</th><th>settings</th><th class="number">bytes</th><th></th></tr>'
    total = sum(row["bytes"] for row in rows)
    about = f"{len(rows)} layers, {amount(total, 'bytes')} of weights {badge('counted')}"
    table = f"<table><thead>{head}</thead><tbody>{''.join(cells)}</tbody></table>"
    return section("The plan, layer by layer", about, f'<div class="scroll">{table}</div>')


def _provenance(fit: Document) -> str:
    facts = {"artifact": fit["artifact"]} | dict(fit["provenance"])
    items = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_settings(value))}</dd>" for name, value in facts.items()
    )
    return section("Provenance", "", f"<dl>{items}</dl>")


def section(title: str, about: str, content: str) -> str:
    """A part of a page under a heading; about and content are HTML already."""
    words = f'<p class="soft">{about}</p>' if about else ""
    return f"<section><h2>{escape(title)}</h2>{words}{content}</section>"


def badge(kind: str) -> str:
    """How a figure was got, as a small label."""
    return f'<span class="badge {kind}">{kind}</span>'


def _measured(kind: str) -> bool:
    if kind not in ("measured", "modelled"):
        raise BadInput(f"kind {kind!r} is neither measured nor modelled")
    return kind == "measured"


def _limits(fit: Document) -> Iterable[tuple[str, float]]:
    return [(name, _finite(value)) for name, value in fit["budget"].items() if value is not None]


def _limit(name: str, value: float) -> str:
    units = {"storage": "bytes", "memory": "bytes", "bandwidth": "bytes", "latency": "s", "energy": "J"}
    return amount(value, units.get(name, ""))


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"a report shows numbers, not {value!r}")
    return float(value)


def _settings(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_settings(setting)}" for name, setting in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
