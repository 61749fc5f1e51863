"""How warm a device gets, and what its governor makes of it: two bodies of heat, four states.

Knows watts, degrees Celsius and seconds of a clock that is handed in. Knows no device by name and reads no
thermometer: temperatures are modelled.

Source of the network: lumped thermal RC circuits, Skadron et al., "Temperature-aware microarchitecture" (2003); the
states are named as iOS names them (ProcessInfo.ThermalState).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ondevice.devices.profile import Device
from ondevice.errors import BadInput


@dataclass(frozen=True)
class ThermalNetwork:
    """A die in a case in air.

        C_die dT_die/dt = P - (T_die - T_case) / R_die
        C_case dT_case/dt = (T_die - T_case) / R_die - (T_case - T_ambient) / R_case

    die_capacity, case_capacity: J/K. die_resistance: K/W from die to case; case_resistance: from case to air.
    ambient: degrees Celsius.
    """

    die_capacity: float
    case_capacity: float
    die_resistance: float
    case_resistance: float
    ambient: float = 25.0

    def __post_init__(self) -> None:
        for name in ("die_capacity", "case_capacity", "die_resistance", "case_resistance"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise BadInput(f"{name} must be finite and above zero, not {value!r}")
        if not math.isfinite(self.ambient):
            raise BadInput(f"the ambient temperature must be finite, not {self.ambient!r}")

    @classmethod
    def of(cls, device: Device) -> ThermalNetwork:
        """A device's network. BadInput where its profile has none."""
        names = ("die_capacity", "case_capacity", "die_resistance", "case_resistance", "ambient_celsius")
        if not set(names) <= set(device.thermal):
            raise BadInput(f"{device.name} gives no thermal network; its profile needs {', '.join(names)}")
        return cls(*(device.thermal[name].value for name in names))

    def faster(self, factor: float) -> ThermalNetwork:
        """The same temperatures in a `factor` of the time: for a test that cannot wait."""
        return replace(
            self, die_capacity=self.die_capacity / factor, case_capacity=self.case_capacity / factor
        )

    def steady(self, watts: float) -> tuple[float, float]:
        """(die, case) in degrees Celsius after any time at constant power: the closed form."""
        case = self.ambient + watts * self.case_resistance
        return case + watts * self.die_resistance, case


class ThermalModel:
    """A network in time, integrated exactly for power that is constant over a step (no step is too long for it)."""

    def __init__(self, network: ThermalNetwork) -> None:
        self.network, self.die, self.case = network, network.ambient, network.ambient

    def step(self, watts: float, seconds: float) -> float:
        """Go on by so many seconds at constant power; the joules that left for the air meanwhile.

        The linear system x' = A x + b has the steady state s and the solution s + exp(A t) (x0 - s); A is 2 x 2 with
        real, negative, distinct eigenvalues.
        """
        if not math.isfinite(watts) or watts < 0 or not math.isfinite(seconds) or seconds < 0:
            raise BadInput(
                f"power and time must be finite and not negative, not {watts!r} W and {seconds!r} s"
            )
        net = self.network
        between, out = 1 / net.die_resistance, 1 / net.case_resistance
        matrix = np.array(
            [
                [-between / net.die_capacity, between / net.die_capacity],
                [between / net.case_capacity, -(between + out) / net.case_capacity],
            ]
        )
        steady = np.array(net.steady(watts))
        values, vectors = np.linalg.eig(matrix)
        weights = np.linalg.solve(vectors, np.array([self.die, self.case]) - steady)
        state = steady + vectors @ (np.exp(values * seconds) * weights)
        above = vectors[1] @ (np.expm1(values * seconds) / values * weights)  # integral of case - steady case
        left = out * ((steady[1] - net.ambient) * seconds + above)
        self.die, self.case = float(state[0]), float(state[1])
        return float(left)

    @property
    def stored(self) -> float:
        """Joules above a device at ambient temperature."""
        net = self.network
        return net.die_capacity * (self.die - net.ambient) + net.case_capacity * (self.case - net.ambient)


@dataclass(frozen=True)
class Level:
    """A thermal state: entered when the case reaches `enter` degrees, capping the clock to a share of the highest."""

    name: str
    enter: float
    share: float


# Apple gives no temperatures: a case of 45 degrees is what standards allow to be touched for long.
LEVELS = (
    Level("nominal", -math.inf, 1.0),
    Level("fair", 36.0, 0.9),
    Level("serious", 39.0, 0.65),
    Level("critical", 43.0, 0.4),
)


class Governor:
    """From the case's temperature to a state, and a cap on the clock. Knows temperatures alone: no time, no load.

    hysteresis: degrees below a state's `enter` at which it is left again, one state at a time or several.
    """

    def __init__(self, levels: tuple[Level, ...] = LEVELS, hysteresis: float = 1.5) -> None:
        enters, shares = [level.enter for level in levels], [level.share for level in levels]
        falling = all(a < b for a, b in pairwise(enters)) and all(a > b for a, b in pairwise(shares))
        if len(levels) < 2 or not falling or hysteresis < 0 or shares[-1] <= 0 or shares[0] > 1:
            raise BadInput(
                "states need rising temperatures, falling shares in (0, 1] and no negative hysteresis"
            )
        self.levels, self.hysteresis, self._at = levels, hysteresis, 0

    @property
    def level(self) -> Level:
        """The state it is in."""
        return self.levels[self._at]

    def see(self, case: float) -> Level:
        """The state at this temperature, coming from the last one."""
        if not math.isfinite(case):
            raise BadInput(f"a temperature must be finite, not {case!r}")
        while self._at + 1 < len(self.levels) and case >= self.levels[self._at + 1].enter:
            self._at += 1
        while self._at > 0 and case < self.level.enter - self.hysteresis:
            self._at -= 1
        return self.level


@dataclass(frozen=True)
class ClockPower:
    """Watts at a share f of the highest clock: base + memory * f + core * f^3 (bandwidth used goes with the clock,
    dynamic power with clock times voltage squared)."""

    base: float
    memory: float
    core: float

    def __post_init__(self) -> None:
        if min(self.base, self.memory, self.core) < 0 or not math.isfinite(
            self.base + self.memory + self.core
        ):
            raise BadInput("watts must be finite and not negative")

    @classmethod
    def of(cls, device: Device, memory_share: float = 0.3) -> ClockPower:
        """From a device's idle and active power; of what it draws more when active, memory has a share (assumed)."""
        if not device.power:
            raise BadInput(f"{device.name} gives no power figures")
        more = device.power["active"].value - device.power["idle"].value
        return cls(device.power["idle"].value, memory_share * more, (1 - memory_share) * more)

    def watts(self, share: float, busy: float = 1.0) -> float:
        """At a clock share, busy for a share of the time."""
        return self.base + busy * (self.memory * share + self.core * share**3)


class PhoneHeat:
    """A device that warms while it works: power by clock, network and governor together, on a clock of its own.

    Raises BadInput where the air is above the last state's temperature already.
    """

    def __init__(self, network: ThermalNetwork, power: ClockPower, governor: Governor) -> None:
        if network.ambient >= governor.levels[-1].enter:
            raise BadInput(
                f"air of {network.ambient:g} degrees is above the {governor.levels[-1].name} state's "
                f"{governor.levels[-1].enter:g}: the device would never run"
            )
        self.model, self.power, self.governor = ThermalModel(network), power, governor

    def work(self, seconds: float) -> Level:
        """Busy for so long at the clock that the governor allows; the state after."""
        self.model.step(self.power.watts(self.governor.level.share), seconds)
        return self.governor.see(self.model.case)

    def rest(self, seconds: float) -> Level:
        """Idle for so long; the state after."""
        self.model.step(self.power.watts(0.0, busy=0.0), seconds)
        return self.governor.see(self.model.case)
