"""Campaigns: cells of a matrix in processes of their own; failures are rows; a killed campaign goes on; hosts and
keys never mix."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.measure.campaign import Campaign, figures_of, key_of, ratio_of, read_rows, run_campaign
from ondevice.measure.timing import Figure

MATRIX = """
timeout = 60
[matrix]
engine = ["a", "b"]
threads = [1, 2]
[settings]
tokens = 8
[[cell]]
engine = "c"
threads = 4
"""


def measure(settings: dict[str, Any]) -> dict[str, Figure]:
    """Does what the engine's name says."""
    engine = settings["engine"]
    if engine == "raises":
        raise BadInput("on purpose")
    if engine == "greedy":
        np.ones(2**30)
    if engine == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if engine == "sleeps":
        time.sleep(60)
    if "log" in settings:
        with Path(str(settings["log"])).open("a") as log:
            log.write(f"{engine}\n")
    return {"speed": Figure.of([settings["threads"], 4.0], "tokens/s")}


def test_a_matrix_with_cells_beside_it() -> None:
    campaign = Campaign.from_toml(MATRIX)
    assert [key_of(cell) for cell in campaign.cells] == [
        "engine=a threads=1 tokens=8", "engine=a threads=2 tokens=8",
        "engine=b threads=1 tokens=8", "engine=b threads=2 tokens=8", "engine=c threads=4 tokens=8",
    ]  # fmt: skip
    assert (campaign.timeout, campaign.memory) == (60, None)


def test_failures_are_rows_and_the_campaign_goes_on(tmp_path: Path) -> None:
    names = ["raises", "greedy", "dies", "sleeps", "works"]
    cells = tuple({"engine": name, "threads": 2} for name in names)
    # time enough to import NumPy on a busy machine
    rows = run_campaign(Campaign(cells, timeout=8, memory=2 * 10**9), measure, tmp_path)
    assert {row["settings"]["engine"]: row["status"] for row in rows} == {
        "raises": "failed", "greedy": "out of memory", "dies": "crashed", "sleeps": "timed out",
        "works": "measured",
    }  # fmt: skip
    assert rows[0]["error"] == "BadInput: on purpose"
    figures = figures_of(rows[-1])
    assert figures["speed"].median == 3
    assert figures["memory"].median > 10**6
    assert sorted(read_rows(tmp_path), key=lambda row: str(row["key"])) == sorted(
        rows, key=lambda row: str(row["key"])
    )
    with pytest.raises(BadInput, match="on purpose"):
        ratio_of(rows[0], rows[-1], "speed")


DRIVER = """
import sys
from pathlib import Path
from tests_campaign import measure
from ondevice.measure.campaign import Campaign, run_campaign
if __name__ == "__main__":
    cells = [{"engine": name, "threads": 1, "log": sys.argv[2]} for name in "abcdef"]
    run_campaign(Campaign(tuple(cells)), measure, Path(sys.argv[1]))
"""


def test_a_campaign_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "tests_campaign.py").write_text(Path(__file__).read_text())
    (tmp_path / "driver.py").write_text(DRIVER)
    out, log = tmp_path / "rows", tmp_path / "log"
    command = [sys.executable, str(tmp_path / "driver.py"), str(out), str(log)]
    first = subprocess.Popen(command, start_new_session=True)
    while not out.is_dir() or len(list(out.glob("*.json"))) < 2:
        time.sleep(0.01)
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    kept = {path.name: path.read_bytes() for path in out.glob("*.json")}
    subprocess.run(command, check=True)
    rows = read_rows(out)
    assert [row["settings"]["engine"] for row in rows] == list("abcdef")
    assert all(out.joinpath(name).read_bytes() == content for name, content in kept.items())
    ran = log.read_text().split()
    assert len(ran) <= 7  # the one that ran when it was killed may run again, none that had its row


def test_what_prepares_a_cell_runs_here_and_is_no_part_of_its_row(tmp_path: Path) -> None:
    cells = ({"engine": "works", "threads": 0},)
    seen: list[Any] = []

    def prepare(settings: Any) -> dict[str, Any]:
        seen.append(settings["engine"])
        return {"threads": 7}

    (row,) = run_campaign(Campaign(cells), measure, tmp_path, prepare=prepare)
    assert row["settings"]["threads"] == 0
    assert figures_of(row)["speed"].max == 7
    run_campaign(Campaign(cells), measure, tmp_path, prepare=prepare)
    assert seen == ["works"]


def test_rows_of_other_hosts_and_of_one_key_are_refused(tmp_path: Path) -> None:
    cells = ({"engine": "works", "threads": 1},)
    (row,) = run_campaign(Campaign(cells), measure, tmp_path)
    assert ratio_of(row, row, "speed") == 1
    with pytest.raises(BadInput, match="no energy"):
        ratio_of(row, row, "energy")
    other = row | {"host": "another"}
    with pytest.raises(BadInput, match="different hosts"):
        ratio_of(row, other, "speed")
    (tmp_path / "other.json").write_text(json.dumps(row))
    with pytest.raises(BadInput, match="two rows of one key"):
        read_rows(tmp_path)
    settings = {"engine": "b", "threads": 1}
    (tmp_path / "other.json").write_text(json.dumps(other | {"settings": settings, "key": key_of(settings)}))
    with pytest.raises(BadInput, match="several hosts"):
        run_campaign(Campaign(cells), measure, tmp_path)
    (tmp_path / "other.json").write_text(json.dumps(row | {"key": "by hand"}))
    with pytest.raises(BadInput, match="not a row"):
        read_rows(tmp_path)
    for path in tmp_path.glob("*.json"):
        path.write_text(json.dumps(other))
    with pytest.raises(BadInput, match=r"two rows|another host"):
        run_campaign(Campaign(cells), measure, tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "needs a cell"),
        ("[matrix]\nengine = 'a'", "is a list"),
        ("[matrix]\nengine = []", "is a list"),
        ("[matrix]\nengine = ['a', 'a']", "two rows have one key, engine=a"),
        ("[matrix]\nengine = ['a']\n[[cell]]\nengine = 'a'", "two rows have one key"),
        ("[matrix]\nengine = [true]", "texts and numbers"),
        ("matrx = 1", "unknown matrx"),
        ("[matrix", "not TOML"),
        ("timeout = 0\n[[cell]]\na = 1", "above zero"),
    ],
)
def test_a_campaign_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Campaign.from_toml(text)
