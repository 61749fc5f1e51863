"""campaign: many decoders on many engines and settings, one process each, as a file lists them; and its report.

Composes a campaign (`measure.campaign`) with cells of decoders (`backends.peers.cells`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ondevice.backends.peers.cells import check_cell, measure_cell, prepare_cell
from ondevice.errors import BadInput
from ondevice.measure.campaign import Campaign, read_rows, run_campaign
from ondevice.measure.campaign_report import write_campaign_report

Progress = Callable[[str, float], None]


def campaign(
    file: str | Path,
    out: str | Path,
    *,
    device: str | None = None,
    progress: Progress = lambda what, done: None,
) -> list[dict[str, Any]]:
    """Measure what a TOML file lists, into the folder `out`; the rows (see `measure.campaign.run_campaign`).

    file: `[matrix]` of lists, `[settings]` for all, `[[cell]]`, `timeout`, `memory`; the settings of a cell are those
    of `backends.peers.cells`. device: this machine's profile, to model energy from. What is measured already is kept,
    so a campaign that was killed goes on. Raises BadInput before anything runs where a cell cannot mean anything.
    """
    try:
        planned = Campaign.from_toml(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the campaign {file}: {error}") from error
    if device is not None:
        planned = replace(planned, cells=tuple({"device": device} | dict(cell) for cell in planned.cells))
    for cell in planned.cells:
        check_cell(cell)

    with tempfile.TemporaryDirectory() as scratch:

        def prepare(settings: Mapping[str, Any]) -> Mapping[str, Any]:
            return prepare_cell(settings, Path(scratch))

        return run_campaign(planned, measure_cell, Path(out), prepare=prepare, progress=progress)


def report(folder: str | Path, out: str | Path | None = None) -> Path:
    """One HTML page of a campaign's rows; its path, `report.html` in the folder unless `out` names another."""
    rows = read_rows(Path(folder))
    if not rows:
        raise BadInput(
            f"{folder} holds no rows of a campaign; run: ondevice bench campaign FILE --out {folder}"
        )
    return write_campaign_report(Path(out) if out else Path(folder) / "report.html", rows)
