"""Joules of a call: measured by the processor's counters where they can be read, else modelled, and labelled.

Knows Linux's powercap files and device profiles. Knows nothing of what the call does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ondevice.devices.profile import Device
from ondevice.errors import BadInput
from ondevice.measure.timing import Figure

POWERCAP = Path("/sys/class/powercap")


class Rapl:
    """The processor packages' energy counters (Intel and AMD, through Linux's powercap)."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self.zones = [
            zone
            for zone in sorted(root.glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and _readable(zone / "energy_uj")
        ]

    @property
    def readable(self) -> bool:
        """Whether there is a counter that this user may read (most systems allow root alone)."""
        return bool(self.zones)

    def joules(self) -> list[float]:
        """Each counter's value."""
        return [int((zone / "energy_uj").read_text()) / 1e6 for zone in self.zones]

    def since(self, before: list[float]) -> float:
        """Joules of all packages since an earlier reading. A counter that wrapped once is put right."""
        total = 0.0
        for zone, first, now in zip(self.zones, before, self.joules(), strict=True):
            wraps = int((zone / "max_energy_range_uj").read_text()) / 1e6
            total += now - first if now >= first else now - first + wraps
        return total


def energy_of(
    act: Callable[[], object], *, repeats: int = 5, device: Device | None = None, rapl: Rapl | None = None
) -> Figure:
    """Joules of one call of `act`.

    Where the counters can be read: measured, of the whole package, whatever else ran beside. Else modelled from
    `device`: its active power times the time that the call took here, so the device must be this machine.
    Raises BadInput where neither is possible.
    """
    meter = rapl or Rapl()
    if repeats < 1:
        raise BadInput("energy needs one repeat or more")
    if meter.readable:
        samples = []
        for _ in range(repeats):
            before = meter.joules()
            act()
            samples.append(meter.since(before))
        return Figure.of(samples, "J", "measured")
    if device is None or not device.power:
        raise BadInput(
            "the processor's energy counters cannot be read (try as root), and no device with power figures "
            "was given to model from"
        )
    watts = device.power["active"].value
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        samples.append(watts * (time.perf_counter() - start))
    return Figure.of(samples, "J", "modelled")


def carbon(joules: float, grams_per_kilowatt_hour: float) -> float:
    """Grams of CO2 equivalent of so much energy on a grid of that intensity."""
    return joules / 3.6e6 * grams_per_kilowatt_hour


def _readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True
