"""The report of a campaign: one self-contained HTML page, without script or network.

Knows rows of a campaign. Knows nothing of what their settings mean; it shows figures, each with how it was got.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ondevice.measure.amounts import amount
from ondevice.measure.charts import Bar, bars
from ondevice.measure.report import badge, page, section
from ondevice.measure.timing import Figure

Row = Mapping[str, Any]
_SHOWN = ("prefill", "decode", "first", "load", "cpu", "memory", "energy")


def write_campaign_report(path: Path, rows: Sequence[Row]) -> Path:
    """Write the page; its path. rows: of one host, as `measure.campaign.read_rows` gives them."""
    measured = [row for row in rows if row["status"] == "measured"]
    machine = rows[0].get("machine", {})
    about = ", ".join(f"{escape(str(name))} {escape(str(value))}" for name, value in machine.items())
    body = [
        f"<h1>Campaign</h1><p class='soft'>{len(rows)} cells, {len(measured)} measured; {about}</p>",
        f"<p>{badge('measured')} observed here&ensp;{badge('modelled')} computed from a device's profile"
        f"&ensp;{badge('counted')} exact</p>",
    ]
    if measured:
        body += [_chart(measured, name) for name in ("decode", "prefill")]
    body.append(_table(rows))
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_text(page("Campaign", body), encoding="utf-8")
    draft.replace(path)
    return path


def _chart(rows: Sequence[Row], name: str) -> str:
    items = []
    for row in rows:
        if name in row["figures"]:
            it = Figure.from_json(row["figures"][name])
            text = f"{it.median:.3g} ({it.min:.3g} to {it.max:.3g}, {it.n} runs)"
            items.append(Bar(_label(row, rows), it.median, it.min, it.max, text, it.kind == "measured"))
            unit = it.unit
    if not items:
        return ""
    chart = bars(items, unit, tick_format=lambda value: f"{value:g}")
    about = "Measured medians with the least and the most."
    return section(f"{name}, {unit}", about, f'<div class="scroll">{chart}</div>')


def _label(row: Row, rows: Sequence[Row]) -> str:
    """The settings in which the rows differ."""
    settings = row["settings"]
    varied = [name for name in settings if len({repr(each["settings"].get(name)) for each in rows}) > 1]
    return " ".join(str(settings[name]) for name in varied) or row["key"]


def _table(rows: Sequence[Row]) -> str:
    shown = [name for name in _SHOWN if any(name in row.get("figures", {}) for row in rows)]
    head = "".join(f'<th class="number">{name}</th>' for name in shown)
    lines = []
    for row in rows:
        cells = [f'<td class="layer">{escape(str(row["key"]))}</td>']
        if row["status"] == "measured":
            cells += [f'<td class="number">{_cell(row["figures"].get(name))}</td>' for name in shown]
        else:
            words = f'<span class="badge no">{escape(row["status"])}</span> {escape(row["error"][:300])}'
            cells.append(f'<td colspan="{len(shown) or 1}">{words}</td>')
        busy = row.get("load_average")
        cells.append(f'<td class="number">{"" if busy is None else format(busy, ".1f")}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = (
        f'<table><thead><tr><th>cell</th>{head}<th class="number">load before</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
    about = "Medians. A cell that failed is a finding. A machine with other load than its own makes noise."
    return section("Cells", about, f'<div class="scroll">{table}</div>')


def _cell(fields: Mapping[str, Any] | None) -> str:
    if fields is None:
        return ""
    it = Figure.from_json(dict(fields))
    mark = "" if it.kind == "measured" else f" {badge(it.kind)}"
    return f"{escape(amount(it.median, it.unit))}{mark}"
