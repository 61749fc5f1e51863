"""A campaign: many cells, each a callable or a command, their rows kept in one JSON file that can be resumed.

Knows callables, commands and the machine. Knows no backend and no model.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput
from ondevice.measure.here import machine
from ondevice.measure.memory import call_fresh, run_command
from ondevice.measure.timing import Figure, time_callable


@dataclass(frozen=True)
class Cell:
    """One thing to measure.

    run: a callable without arguments, or a command as a list. A command always runs in a fresh process;
    a callable does with fresh=True, and must then be importable by name. repeats: measured runs.
    """

    name: str
    run: Callable[[], object] | Sequence[str]
    repeats: int = 5
    warmup: int = 1
    fresh: bool = False
    timeout: float | None = None


def run_cells(cells: Sequence[Cell], out: Path, *, resume: bool = True) -> list[dict[str, Any]]:
    """Measure each cell; rows `{"cell", "host", "machine", "figures" | "error"}`, written as they are made.

    figures: "latency" in seconds, and "memory" (peak bytes) for a fresh process. A cell that fails is a row
    with its error, and the campaign goes on. With `resume`, cells that have figures in `out` already are not
    run again; a file from another host is refused, as its rows cannot stand beside ours.
    """
    names = [cell.name for cell in cells]
    if len(set(names)) != len(names):
        raise BadInput("two cells have one name; give each its own")
    here = {"host": _host(), "machine": machine()}
    rows = read_rows(out) if resume and out.exists() else []
    if any(row["host"] != here["host"] for row in rows):
        raise BadInput(f"{out} holds rows of another host; write to another file or start anew")
    kept = {row["cell"]: row for row in rows if "figures" in row}
    for cell in cells:
        if cell.name not in kept:
            try:
                figures = {name: figure.to_json() for name, figure in _measure(cell).items()}
                kept[cell.name] = {"cell": cell.name, **here, "figures": figures}
            except Exception as error:  # a crash is a finding; the other cells still count
                kept[cell.name] = {"cell": cell.name, **here, "error": f"{type(error).__name__}: {error}"}
            _write(out, list(kept.values()))
    return [kept[name] for name in names]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a campaign. BadInput for a file that is none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if all({"cell", "host"} <= set(row) for row in rows):
            return list(rows)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{path} is not a campaign: {error}") from error
    raise BadInput(f"{path} is not a campaign: a row lacks its cell or host")


def ratio_of(baseline: dict[str, Any], ours: dict[str, Any], figure: str = "latency") -> float:
    """Median of ours / median of the baseline. Refuses rows of different hosts or without the figure."""
    if baseline["host"] != ours["host"]:
        raise BadInput(f"{baseline['cell']} and {ours['cell']} ran on different hosts: no ratio")
    for row in (baseline, ours):
        if figure not in row.get("figures", {}):
            raise BadInput(f"{row['cell']} has no {figure}: {row.get('error', 'not measured')}")
    below, above = (Figure.from_json(row["figures"][figure]) for row in (baseline, ours))
    if (below.kind, below.unit) != (above.kind, above.unit):
        raise BadInput(f"cannot set {above.kind} {above.unit!r} against {below.kind} {below.unit!r}")
    return above.median / below.median


def _host() -> str:
    """Tells hosts apart, also two of the same make, without naming them."""
    return hashlib.sha256(f"{platform.node()} {machine()}".encode()).hexdigest()[:12]


def _measure(cell: Cell) -> dict[str, Figure]:
    if not callable(cell.run):
        command = cell.run
        runs = [run_command(command, timeout=cell.timeout) for _ in range(cell.warmup + cell.repeats)]
        measured = runs[cell.warmup :]
        return {
            "latency": Figure.of([run.seconds for run in measured], "s"),
            "memory": Figure.of([run.peak_bytes for run in measured], "bytes"),
        }
    if not cell.fresh:
        return {"latency": time_callable(cell.run, cell.repeats, cell.warmup)}
    latencies, peak = call_fresh(_timed, cell.run, cell.repeats, cell.warmup, timeout=cell.timeout)
    return {"latency": Figure.of(latencies, "s"), "memory": Figure.of([peak], "bytes")}


def _timed(function: Callable[[], object], repeats: int, warmup: int) -> tuple[float, ...]:
    return time_callable(function, repeats, warmup).samples


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    draft = out.with_name(f"{out.name}.{os.getpid()}.draft")
    draft.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draft.replace(out)
