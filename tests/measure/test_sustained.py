"""Sustained runs on a clock of the test's own: what timestamps alone say against what the governor imposed."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.devices.thermal import ClockPower, Governor, PhoneHeat, ThermalNetwork
from ondevice.errors import BadInput
from ondevice.measure.sustained import find_throttling, sustained_run

NETWORK, POWER = ThermalNetwork(5, 160, 4, 6, 25), ClockPower(0.5, 1.65, 3.85)


class Clock:
    """Time passes when a step works or pauses; steps differ by some per cent, as real ones do."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.now, self.seconds, self.random = 0.0, seconds, np.random.default_rng(seed)

    def step(self) -> None:
        self.now += self.seconds * self.random.uniform(0.97, 1.06)

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("seed", range(5))
def test_timestamps_tell_onset_and_drop(seed: int) -> None:
    clock, heat = Clock(0.5, seed), PhoneHeat(NETWORK, POWER, Governor())
    asked = sustained_run(
        clock.step, heat, questions=30, steps=60, duty_cycle=clock.pause, clock=lambda: clock.now
    )
    found = find_throttling([question.stamps for question in asked])
    imposed = next(number for number, question in enumerate(asked) if question.share < 0.99)
    assert found.onset is not None
    assert abs(found.onset - imposed) <= 1
    last = float(np.median([question.share for question in asked[-7:]]))
    assert 1 - found.drop == pytest.approx(last, rel=0.1)
    assert asked[-1].case > 36 > asked[0].case


def test_a_run_that_stays_cool_has_no_onset() -> None:
    clock, heat = Clock(0.01, 0), PhoneHeat(NETWORK, POWER, Governor())
    asked = sustained_run(
        clock.step, heat, questions=12, steps=20, duty_cycle=clock.pause, clock=lambda: clock.now
    )
    assert {question.state for question in asked} == {"nominal"}
    found = find_throttling([question.stamps for question in asked])
    assert (found.onset, found.drop) == (None, 0.0)


def test_rest_between_questions_keeps_the_first_speed() -> None:
    clock, heat = Clock(0.5, 0), PhoneHeat(NETWORK, POWER, Governor())
    asked = sustained_run(
        clock.step, heat, questions=10, steps=60, rest=900, duty_cycle=clock.pause, clock=lambda: clock.now
    )
    assert find_throttling([question.stamps for question in asked]).onset is None
    assert asked[-1].speed > 0.9 * asked[0].speed


def test_bad_input() -> None:
    heat = PhoneHeat(NETWORK, POWER, Governor())
    with pytest.raises(BadInput, match="needs a question"):
        sustained_run(lambda: None, heat, questions=0, steps=1)
    with pytest.raises(BadInput, match="four questions"):
        find_throttling([(0.0, 1.0)] * 3)
    with pytest.raises(BadInput, match="must rise"):
        find_throttling([(1.0, 0.0)] * 4)
