"""The cost curves of benchmarks/ on a small shape: what is counted is right, lines are fitted, the page is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from ondevice.runtime.kv.paged import PagedCache
from ondevice.runtime.weights.shapes import SHAPES

COST = Path(__file__).parents[2] / "benchmarks" / "cost.py"


def test_cells_are_measured_and_lines_are_fitted(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(COST),
        "--shape",
        "smollm2-135m",
        "--cache",
        "int8",
        "--threads",
        "1",
        "--rounds",
        "2",
    ]
    command += [
        "--steps",
        "1",
        "--contexts",
        "64",
        "192",
        "128",
        "--batches",
        "1",
        "3",
        "--batch-context",
        "64",
    ]
    command += ["--read-bytes", "1000000", "--out", str(tmp_path / "cost.html"), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [(row["context"], row["batch"], row["n"]) for row in found["cells"]] == [
        (64, 1, 2), (64, 3, 2), (128, 1, 2), (192, 1, 2),
    ]  # fmt: skip
    config = SHAPES["smollm2-135m"]
    sizes = config["num_hidden_layers"], config["num_key_value_heads"], config["head_dim"]
    assert found["cache_bytes_a_token"] == PagedCache(64, *sizes, "int8").nbytes / 64
    times = [row["seconds"] for row in found["cells"] if row["batch"] == 1]
    slope, start = np.linalg.lstsq(np.array([[64, 1], [128, 1], [192, 1]]), np.array(times), rcond=None)[0]
    np.testing.assert_allclose([found["by_context"][name] for name in ("slope", "start")], [slope, start])
    shown = (tmp_path / "cost.html").read_text(encoding="utf-8")
    assert shown.count("<svg") == 2
    assert "memory alone" in shown
