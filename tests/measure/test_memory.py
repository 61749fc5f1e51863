"""Peak memory: sees what a fresh process allocates, not what this one holds, and reports failures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.measure.memory import peak_memory, peak_memory_of, run_command

MB = 10**6
ALLOCATE = "x = bytearray({}); print(len(x))"


def test_a_command_s_peak_is_its_own() -> None:
    ballast = np.ones(200 * MB // 8)  # resident here: must not show in a child that starts from this process
    small = peak_memory([sys.executable, "-S", "-c", ALLOCATE.format(0)])
    large = peak_memory([sys.executable, "-S", "-c", ALLOCATE.format(150 * MB)])
    assert ballast.sum() > 0
    assert small.median < 60 * MB
    assert 140 * MB < large.median - small.median < 160 * MB
    assert (large.unit, large.kind) == ("bytes", "measured")


def test_a_callable_s_peak() -> None:
    small, large = peak_memory_of(bytearray, 1), peak_memory_of(bytearray, 100 * MB)
    assert 90 * MB < large.median - small.median < 110 * MB


def test_a_run_is_timed() -> None:
    run = run_command([sys.executable, "-S", "-c", "import time; time.sleep(0.2)"])
    assert run.seconds >= 0.2 > run.cpu_seconds > 0


def test_failures_are_told() -> None:
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        peak_memory([sys.executable, "-c", "1/0"])
    with pytest.raises(BadInput, match="failed"):
        peak_memory(["no-such-program-anywhere"])
    with pytest.raises(BadInput, match="ran past"):
        peak_memory([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3)
    with pytest.raises(BadInput, match="list"):
        peak_memory("ls -l")
    with pytest.raises(BadInput, match="ValueError"):
        peak_memory_of(bytearray, -1)
    with pytest.raises(BadInput, match="fresh process"):
        peak_memory_of(lambda: None)
