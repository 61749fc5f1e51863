"""Heat: the integrator against SciPy and the closed form, energy balance, the governor's states, bad input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from ondevice.devices.profile import load
from ondevice.devices.thermal import (
    LEVELS,
    ClockPower,
    Governor,
    Level,
    PhoneHeat,
    ThermalModel,
    ThermalNetwork,
)
from ondevice.errors import BadInput

PHONE = ThermalNetwork(5, 160, 4, 6, 25)


def test_the_steady_state_is_the_closed_form() -> None:
    model = ThermalModel(PHONE)
    for _ in range(2000):
        model.step(3.0, 10.0)
    assert (model.die, model.case) == pytest.approx((25 + 3 * 6 + 3 * 4, 25 + 3 * 6), rel=1e-6)


def test_a_changing_load_against_scipy() -> None:
    def watts(t: float) -> float:
        return 6.0 if math.floor(t / 30) % 2 == 0 else 0.5

    def flow(t: float, x: np.ndarray) -> list[float]:
        between, out = (x[0] - x[1]) / PHONE.die_resistance, (x[1] - PHONE.ambient) / PHONE.case_resistance
        return [(watts(t) - between) / PHONE.die_capacity, (between - out) / PHONE.case_capacity]

    state, model = np.array([25.0, 25.0]), ThermalModel(PHONE)
    for part in range(20):
        edge = solve_ivp(flow, (30 * part, 30 * part + 29.999999), state, rtol=1e-9, atol=1e-9)
        state = edge.y[:, -1]
        model.step(watts(30 * part), 30.0)
        assert (model.die, model.case) == pytest.approx(tuple(state), abs=1e-3)


@given(
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 500)), min_size=1, max_size=10),
    st.floats(0.5, 50), st.floats(10, 500), st.floats(0.5, 20), st.floats(0.5, 20),
)  # fmt: skip
def test_energy_is_neither_made_nor_lost(
    load: list[tuple[float, float]], die: float, case: float, inner: float, outer: float
) -> None:
    model = ThermalModel(ThermalNetwork(die, case, inner, outer, 20.0))
    left = sum(model.step(watts, seconds) for watts, seconds in load)
    put = sum(watts * seconds for watts, seconds in load)
    assert left + model.stored == pytest.approx(put, rel=1e-6, abs=1e-6)


def closed_loop(step: float, seconds: float = 3600.0) -> tuple[float, float]:
    heat = PhoneHeat(PHONE, ClockPower(0.5, 1.65, 3.85), Governor())
    for _ in range(round(seconds / step)):
        heat.work(step)
    return heat.model.die, heat.model.case


def test_half_the_step_gives_the_same_temperatures_under_the_governor() -> None:
    (die, case), (other_die, other_case) = closed_loop(1.0), closed_loop(0.5)
    assert abs(die - other_die) < 0.2
    assert abs(case - other_case) < 0.2


def test_the_governor_holds_the_case_below_the_state_it_would_not_reach() -> None:
    free, _ = PHONE.steady(6.0)
    die, case = closed_loop(1.0)
    assert case < LEVELS[-1].enter + 0.5 < PHONE.steady(6.0)[1]
    assert die < free


def test_states_rise_by_temperature_and_fall_with_hysteresis() -> None:
    governor = Governor(hysteresis=2.0)
    seen = [governor.see(case).name for case in (30, 36, 35, 34.1, 33.9, 44, 41.5, 40.9, 36, 20)]
    assert seen == [
        "nominal", "fair", "fair", "fair", "nominal", "critical", "critical", "serious", "fair", "nominal"
    ]  # fmt: skip


@given(st.lists(st.floats(-20, 80), min_size=1, max_size=40))
def test_the_state_lies_between_those_of_the_bare_thresholds(cases: list[float]) -> None:
    governor = Governor(hysteresis=1.5)
    for case in cases:
        share = governor.see(case).share
        bare = min(level.share for level in LEVELS if case >= level.enter)
        late = min(level.share for level in LEVELS if case + 1.5 >= level.enter)
        assert late <= share <= bare


def test_time_can_be_made_faster_and_temperatures_stay() -> None:
    slow, fast = ThermalModel(PHONE), ThermalModel(PHONE.faster(20))
    slow.step(4.0, 300.0)
    fast.step(4.0, 15.0)
    assert (fast.die, fast.case) == pytest.approx((slow.die, slow.case))


def test_power_rises_with_the_cube_of_the_clock() -> None:
    power = ClockPower.of(load("iphone-a17pro"))
    assert power.watts(1.0) == pytest.approx(6.0)
    assert power.watts(0.5, busy=0.0) == pytest.approx(0.5)
    assert power.watts(0.5) == pytest.approx(0.5 + 5.5 * (0.3 * 0.5 + 0.7 * 0.125))


@pytest.mark.parametrize("chip", ["a14", "a15", "a16", "a17pro"])
def test_the_phones_have_networks(chip: str) -> None:
    assert ThermalNetwork.of(load(f"iphone-{chip}")).steady(3.0)[1] == pytest.approx(43.0)


def test_what_cannot_be_is_refused() -> None:
    for field in ("die_capacity", "case_capacity", "die_resistance", "case_resistance"):
        with pytest.raises(BadInput, match=f"{field} must be finite and above zero"):
            replace(PHONE, **{field: -1.0})
    with pytest.raises(BadInput, match="would never run"):
        PhoneHeat(replace(PHONE, ambient=50.0), ClockPower(0.5, 1, 3), Governor())
    with pytest.raises(BadInput, match="thermal network"):
        ThermalNetwork.of(load("cortex-m4"))
    with pytest.raises(BadInput, match="rising temperatures"):
        Governor((Level("a", 30, 1.0), Level("b", 30, 0.5)))
    with pytest.raises(BadInput, match="not negative"):
        ThermalModel(PHONE).step(-1, 1)
    with pytest.raises(BadInput, match="not negative"):
        ClockPower(-1, 0, 0)
