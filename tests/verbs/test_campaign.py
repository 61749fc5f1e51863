"""A campaign of decoders from a file to its page: real cells, a bad one refused before any runs, resumed from disk."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install 'ondevice-ml[peers]'")

from ondevice.errors import BadInput, DeviceUnknown
from ondevice.measure.campaign import figures_of, read_rows
from ondevice.verbs.campaign import campaign, report

FILE = """
timeout = 300
memory = 4_000_000_000
[matrix]
engine = ["native", "llama.cpp"]
[settings]
model = "smollm2-135m"
bits = 4
prompt = 8
tokens = 3
repeats = 1
[[cell]]
engine = "native"
bits = 8
model = "llama-3.1-8b"
"""


def test_cells_rows_and_the_page(tmp_path: Path) -> None:
    file, out = tmp_path / "campaign.toml", tmp_path / "rows"
    file.write_text(FILE)
    rows = campaign(file, out, device="raspberry-pi-5")
    # eight billion weights at eight bits are more than the cells may have: a finding, not an end
    assert [row["status"] for row in rows] == ["measured", "measured", "out of memory"]
    for row in rows[:2]:
        figures = figures_of(row)
        phases = [figures[f"energy {name}"].median for name in ("load", "prefill", "decode", "other")]
        # between two phases a busy machine may do something else for a while
        assert 0.9 <= sum(phases) / figures["energy"].median <= 1.0001
        assert figures["bytes"].kind == "counted"
        assert figures["decode"].median * figures["token"].median == pytest.approx(1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert campaign(file, out, device="raspberry-pi-5") == rows
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    page = report(out).read_text()
    for row in rows:
        assert row["key"] in page
    assert "out of memory" in page
    assert not re.search(r"<script|https?://", page)
    assert len(read_rows(out)) == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"llama.cpp"', '"mlc"', "no engine 'mlc'"),
        ("smollm2-135m", "smollm-9", "model is missing: smollm-9"),
        ("bits = 4", "bits = 3", r"\(4, 8\) bits, not 3"),
        ("prompt = 8", "prompt = 0", "counts of 1 or more"),
        ("prompt = 8", "promt = 8", "unknown setting promt"),
        ("tokens = 3", "tokens = 3\nthreads = 999", "more than the"),
        ("tokens = 3", 'tokens = 3\ndevice = "abacus"', "no device 'abacus'"),
    ],
)
def test_a_cell_that_means_nothing_stops_it_before_it_runs(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    file = tmp_path / "campaign.toml"
    file.write_text(FILE.replace(old, new))
    with pytest.raises((BadInput, DeviceUnknown), match=says):
        campaign(file, tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot read the campaign"):
        campaign(tmp_path / "none.toml", tmp_path)
    with pytest.raises(BadInput, match="holds no rows"):
        report(tmp_path)
