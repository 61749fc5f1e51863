"""A few seconds of the soak in benchmarks/: 32 clients, each of whose streams is what one client alone gets; some hang
up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).parents[2] / "benchmarks" / "serve.py"


def test_no_stream_is_lost_or_mixed_up() -> None:
    command = [sys.executable, str(SOAK), "--seconds", "2", "--tokens", "16", "--threads", "1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["streams"] >= 32
    assert result["wrong"] == []
    assert result["broken_off"] >= 4
    assert result["held_at_the_end"] == 0
