"""This machine as a device: whole, within the limits the system sets, and found again by its name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ondevice.devices.profile import load
from ondevice.measure.here import machine, measure_here, memory_limit, usable_cores


def test_measured_kept_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    device = measure_here()
    assert load("here") == device
    assert device.cores.value == usable_cores()
    assert device.memory[-1].size.value == memory_limit()
    assert all(tier.bandwidth.source.startswith("measured here") for tier in device.memory)
    assert [path.name for path in (tmp_path / "cache" / "devices").iterdir()] == ["here.toml"]


def test_limits_are_within_the_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    total = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")
    )
    assert 0 < memory_limit() <= int(total.split()[1]) * 1024


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_result_does_not_say_whose_machine_it_was() -> None:
    assert set(machine()) == {"cpu", "cores", "memory_bytes", "system", "python"}
    assert os.uname().nodename not in str(machine())
