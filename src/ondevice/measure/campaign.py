"""A campaign: a matrix of cells, each measured in a fresh process, its row kept in a file of its own as it is made.

Knows settings, processes and this machine. Knows no engine and no model: what a cell measures is handed in.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
import resource
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput
from ondevice.measure.here import machine
from ondevice.measure.memory import call_fresh
from ondevice.measure.timing import Figure

Setting = str | int | float
Settings = Mapping[str, Setting]
Measure = Callable[[dict[str, Setting]], dict[str, Figure]]
_NO_MEMORY = ("MemoryError", "bad_alloc", "annot allocate memory", "nable to allocate", "ailed to allocate")


@dataclass(frozen=True)
class Campaign:
    """cells: the settings of each. timeout: seconds a cell may take. memory: bytes of private data that the process
    of a cell may have (RLIMIT_DATA; files that it maps do not count), or None."""

    cells: tuple[Settings, ...]
    timeout: float = 600.0
    memory: int | None = None

    def __post_init__(self) -> None:
        if not self.cells:
            raise BadInput("a campaign needs a cell; write a [matrix] or a [[cell]]")
        if self.timeout <= 0 or (self.memory is not None and self.memory < 1):
            raise BadInput("a campaign's timeout and memory must be above zero")
        keys = [key_of(cell) for cell in self.cells]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise BadInput(f"two rows have one key, {twice}; give each cell settings of its own")

    @classmethod
    def from_toml(cls, text: str) -> Campaign:
        """Read a campaign: `[matrix]` of lists, all of whose combinations are cells; `[settings]` that all cells
        share; `[[cell]]` tables, one more cell each; `timeout` in seconds, `memory` in bytes. BadInput says what is
        wrong."""
        try:
            fields = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise BadInput(f"not a campaign: not TOML: {error}") from error
        matrix, shared = fields.pop("matrix", {}), fields.pop("settings", {})
        more = fields.pop("cell", [])
        limits = {name: fields.pop(name) for name in ("timeout", "memory") if name in fields}
        if fields:
            raise BadInput(f"not a campaign: unknown {', '.join(fields)}; known: matrix, settings, cell, "
                           "timeout, memory")  # fmt: skip
        if not all(isinstance(values, list) and values for values in matrix.values()):
            raise BadInput("not a campaign: every entry of [matrix] is a list of settings")
        combined = [dict(zip(matrix, values)) for values in itertools.product(*matrix.values())]
        cells = [shared | cell for cell in [*(combined if matrix else []), *more]]
        for cell in cells:
            if any(isinstance(value, bool) or not isinstance(value, Setting) for value in cell.values()):
                raise BadInput(f"not a campaign: settings are texts and numbers, not {cell}")
        return cls(tuple(cells), **limits)


def key_of(settings: Settings) -> str:
    """What tells a cell from others, whatever the order in which its settings were written."""
    return " ".join(f"{name}={settings[name]}" for name in sorted(settings))


def run_campaign(
    campaign: Campaign,
    measure: Measure,
    out: Path,
    *,
    prepare: Callable[[Settings], Mapping[str, Setting]] = lambda settings: {},
    progress: Callable[[str, float], None] = lambda what, done: None,
) -> list[dict[str, Any]]:
    """Measure each cell that has no row yet; all rows of the campaign, in its order.

    measure: called with a cell's settings in a fresh process; importable by name. prepare: called here before a cell
    that is measured; what it returns is added to the settings that `measure` sees, not to the row's.
    A row: `{"key", "settings", "status", "host", "machine", "load_average"}` and "figures" or "error". status:
    "measured", "out of memory", "timed out", "crashed" (the process ended) or "failed" (an error): a finding either
    way, which stays, until its file is deleted. Rows are written one by one, whole or not at all, so a campaign that
    is killed goes on where it was. Raises BadInput where `out` holds rows of another host.
    """
    rows = {row["key"]: row for row in read_rows(out)} if out.exists() else {}
    here = host()
    if any(row["host"] != here for row in rows.values()):
        raise BadInput(
            f"{out} holds rows of another host, which cannot stand beside ours; choose another folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    for done, cell in enumerate(campaign.cells):
        key = key_of(cell)
        if key in rows:
            continue
        progress("measuring", done / len(campaign.cells))
        row: dict[str, Any] = {
            "key": key, "settings": dict(cell), "host": here, "machine": machine(),
            "load_average": os.getloadavg()[0],
        }  # fmt: skip
        try:
            settings = dict(cell) | dict(prepare(cell))
            figures, peak = call_fresh(_within, campaign.memory, measure, settings, timeout=campaign.timeout)
            figures = {"memory": Figure.of([peak], "bytes")} | figures
            row["figures"] = {name: figure.to_json() for name, figure in figures.items()}
            row["status"] = "measured"
        except Exception as error:  # a finding; the other cells still count
            said = re.sub(r"^<function .*?> (failed: )?", "", str(error)) or type(error).__name__
            row |= {"status": _status(said), "error": said}
        _write(out, row)
        rows[key] = row
    progress("done", 1.0)
    return [rows[key_of(cell)] for cell in campaign.cells]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a campaign's folder, by key. BadInput for a damaged row, two of one key, or rows of two hosts."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            for figure in row.get("figures", {}).values():
                Figure.from_json(figure)
            if not {"key", "settings", "status", "host"} <= set(row) or row["key"] != key_of(row["settings"]):
                raise BadInput("a field is missing, or its key is not that of its settings")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{path} is not a row of a campaign: {error}") from error
        rows.append(row)
    keys = [row["key"] for row in rows]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise BadInput(f"{folder} holds two rows of one key, {twice}")
    if len({row["host"] for row in rows}) > 1:
        raise BadInput(f"{folder} holds rows of several hosts, which cannot be compared")
    return sorted(rows, key=lambda row: str(row["key"]))


def figures_of(row: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a measured row. BadInput with its error for another."""
    if row["status"] != "measured":
        raise BadInput(f"{row['key']} has no figures: {row['status']}, {row['error']}")
    return {name: Figure.from_json(figure) for name, figure in row["figures"].items()}


def ratio_of(baseline: Mapping[str, Any], ours: Mapping[str, Any], figure: str) -> float:
    """Median of ours / median of the baseline. Refuses rows of different hosts, kinds and units."""
    if baseline["host"] != ours["host"]:
        raise BadInput(f"{baseline['key']} and {ours['key']} ran on different hosts: no ratio")
    below, above = (figures_of(row).get(figure) for row in (baseline, ours))
    if below is None or above is None:
        raise BadInput(f"one of the rows has no {figure}")
    if (below.kind, below.unit) != (above.kind, above.unit):
        raise BadInput(f"cannot set {above.kind} {above.unit!r} against {below.kind} {below.unit!r}")
    return above.median / below.median


def host() -> str:
    """Tells hosts apart, also two of the same make, without naming them."""
    return hashlib.sha256(f"{platform.node()} {machine()}".encode()).hexdigest()[:12]


def _within(memory: int | None, measure: Measure, settings: dict[str, Setting]) -> dict[str, Figure]:
    """In the cell's process."""
    os.dup2(2, 1)  # what an engine prints is no part of our caller's output
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    return measure(settings)


def _status(error: str) -> str:
    if any(word in error for word in _NO_MEMORY):
        return "out of memory"
    if re.search(r"ran past [\d.]+ s$", error):
        return "timed out"
    return "crashed" if "ended its process" in error else "failed"


def _write(out: Path, row: Mapping[str, Any]) -> None:
    path = out / f"{hashlib.sha256(row['key'].encode()).hexdigest()[:16]}.json"
    draft = path.with_suffix(f".{os.getpid()}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(json.dumps(row, indent=1, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
