"""This machine as a device: what its memory and processor reach, measured, and the limits it is held to.

Knows the operating system and NumPy. Knows no model; the profile it writes is read by ondevice.devices.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.devices.profile import Device, Sourced, Tier, here_path
from ondevice.measure.timing import seconds

_NO_ENERGY = Sourced(
    0.0, "assumed: no figure; this device has no power either, so its energy is not modelled"
)


def measure_here() -> Device:
    """Measure this machine (about a second) and keep the profile as the device `here` in the cache folder.

    Memory: read bandwidth by a BLAS dot product over 256 MiB, and over half of each shared cache.
    fp32: NumPy's matrix product, 1024 square, on all usable cores. Each figure is the best of several runs,
    as a peak must be. No power is measured, so no energy can be modelled.
    """
    cores, limit = usable_cores(), memory_limit()
    flops = 2 * 1024**3 / _best(_matrix_product(1024), 8)
    tiers = [_tier(f"L{level}", size, size // 2) for level, size in _caches() if level > 1]
    tiers.append(_tier("memory", limit, 256 * 2**20))
    device = Device(
        name="here",
        title=machine()["cpu"],
        kind="host",
        cores=Sourced(cores, "measured here: usable by this process"),
        peaks={"fp32": Sourced(flops / cores, "measured here: NumPy's 1024 matrix product on all cores")},
        peaks_per="core",
        memory=tuple(tiers),
        memory_limit=Sourced(limit, "measured here: memory of the machine or of the control group"),
    )
    path = here_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(device.to_toml(), encoding="utf-8")
    draft.replace(path)
    return device


def machine() -> dict[str, Any]:
    """What a result needs to say of the machine it was measured on; no name of the machine or its user."""
    return {
        "cpu": _processor(),
        "cores": usable_cores(),
        "memory_bytes": memory_limit(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut to the control group's quota (v1 and v2)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _control_groups("cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        both = _read(folder / "cpu.max").split()
        if len(both) == 2:
            quota, period = both
        if quota.isdigit() and period.isdigit() and int(quota) > 0:
            cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_limit() -> int:
    """Bytes that this process may use: the machine's memory, cut to the control group's limit (v1 and v2)."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _control_groups("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value.isdigit() and int(value) > 0:
                limit = min(limit, int(value))
    return limit


def _control_groups(controller: str) -> list[Path]:
    """Folders of this process's control group and of all above it; limits of each hold."""
    found: list[Path] = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / controllers if controllers else Path("/sys/fs/cgroup")
        if controllers and not root.exists():
            root = Path("/sys/fs/cgroup") / controller
        group = root / path.lstrip("/")
        found += [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _processor() -> str:
    if sys.platform == "linux":
        for line in _read(Path("/proc/cpuinfo")).splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


def _caches() -> list[tuple[int, int]]:
    """(level, bytes) of the first core's data caches, smallest first; empty where the system is silent."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = []
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size, level = _read(folder / "size"), _read(folder / "level")
        if _read(folder / "type") != "Instruction" and size[:-1].isdigit() and level.isdigit():
            found.append((int(level), int(size[:-1]) * units.get(size[-1], 1)))
    return sorted(found)


def _tier(name: str, size: int, read: int) -> Tier:
    values = np.ones(read // 4, dtype=np.float32)
    repeats = max(4, min(400, 2**30 // read))
    bandwidth = values.nbytes / _best(lambda: values @ values, repeats)
    source = f"measured here: best of {repeats} reads of {read // 2**10} KiB by a NumPy dot product"
    return Tier(
        name=name,
        size=Sourced(size, "measured here: as the operating system reports it"),
        bandwidth=Sourced(bandwidth, source),
        energy=_NO_ENERGY,
    )


def _matrix_product(size: int) -> Callable[[], object]:
    a, b = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    out = np.empty((size, size), dtype=np.float32)
    return lambda: np.matmul(a, b, out=out)


def _best(function: Callable[[], object], repeats: int) -> float:
    function()
    return min(seconds(function) for _ in range(repeats))
