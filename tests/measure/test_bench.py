"""Campaigns: rows for callables and commands, failures kept, resumed, machines never mixed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from ondevice.errors import BadInput
from ondevice.measure.bench import Cell, ratio_of, read_rows, run_cells


def nap() -> None:
    time.sleep(0.02)


def fall() -> None:
    raise ValueError("on purpose")


def test_callables_commands_and_failures(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "-S", "-c", "import time; time.sleep(0.05)"]
    rows = run_cells(
        [
            Cell("here", nap, repeats=3),
            Cell("command", command, repeats=2, warmup=0),
            Cell("fails", fall),
            Cell("slow command", [sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2),
            Cell("fresh", time.process_time, repeats=3, fresh=True),
        ],
        out,
    )
    here, command_row, fails, slow, fresh = rows
    assert here["figures"]["latency"]["n"] == 3
    assert here["figures"]["latency"]["min"] >= 0.02
    assert command_row["figures"]["latency"]["min"] >= 0.05
    assert command_row["figures"]["memory"]["median"] > 10**6
    assert "ValueError: on purpose" in fails["error"]
    assert "ran past" in slow["error"]
    assert set(fresh["figures"]) == {"latency", "memory"}
    assert read_rows(out) == rows
    assert ratio_of(here, command_row) > 1
    with pytest.raises(BadInput, match="on purpose"):
        ratio_of(here, fails)


def test_resumed_cells_do_not_run_again_and_failed_ones_do(tmp_path: Path) -> None:
    out, calls, broken = tmp_path / "rows.json", [], [True]

    def sometimes() -> None:
        calls.append(1)
        if broken[0]:
            raise RuntimeError("not yet")

    cells = [
        Cell("a", lambda: calls.append(2), repeats=1, warmup=0),
        Cell("b", sometimes, repeats=1, warmup=0),
    ]
    run_cells(cells, out)
    broken[0] = False
    rows = run_cells(cells, out)
    assert calls == [2, 1, 1]
    assert "figures" in rows[1]
    run_cells(cells, out, resume=False)
    assert calls == [2, 1, 1, 2, 1]


def test_rows_of_another_host_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    (row,) = run_cells([Cell("a", nap, repeats=1)], out)
    other = dict(row, cell="b", host="another")
    with pytest.raises(BadInput, match="different hosts"):
        ratio_of(row, other)
    out.write_text(json.dumps([other]))
    with pytest.raises(BadInput, match="another host"):
        run_cells([Cell("a", nap)], out)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one name"):
        run_cells([Cell("a", nap), Cell("a", nap)], tmp_path / "rows.json")
    for text in ("{", "[1]", '[{"cell": 1}]', "3"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(BadInput, match="not a campaign"):
            run_cells([Cell("a", nap)], tmp_path / "bad.json")
