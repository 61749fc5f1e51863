"""Question after question without a pause: a real computation under a simulated governor, and what its timestamps say.

Knows a callable that does one step of work, clocks and a device that warms (`devices.thermal`). Knows no model. The
steps are really computed and really timed; temperatures and the cap on the clock are modelled. A cap to a share s of
the clock is imposed as a duty cycle: a step that took t seconds is followed by a pause of t (1/s - 1).

The analysis sees timestamps alone: it is told neither temperatures nor caps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ondevice.devices.thermal import PhoneHeat
from ondevice.errors import BadInput


@dataclass(frozen=True)
class Question:
    """stamps: seconds on one clock at which its steps ended, the first of them when it began. share: the mean cap that
    the governor imposed; case: degrees at its end; state: the governor's, at its end. All three are modelled."""

    stamps: tuple[float, ...]
    share: float
    case: float
    state: str

    @property
    def speed(self) -> float:
        """Steps a second."""
        return (len(self.stamps) - 1) / (self.stamps[-1] - self.stamps[0])


def sustained_run(
    step: Callable[[], object],
    heat: PhoneHeat,
    *,
    questions: int,
    steps: int,
    rest: float = 0.0,
    duty_cycle: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Question]:
    """Ask `questions`, each of so many steps, with `rest` seconds between them.

    duty_cycle: told how long to pause after a step. The time that passed on `clock` is what warms the device: its
    network should be made `faster` where nobody can wait for minutes.
    """
    if questions < 1 or steps < 1 or rest < 0:
        raise BadInput("a sustained run needs a question, a step and no negative rest")
    asked = []
    for number in range(questions):
        if number and rest:
            before = clock()
            duty_cycle(rest)
            heat.rest(clock() - before)
        stamps, shares = [clock()], []
        for _ in range(steps):
            start = clock()
            step()
            share = heat.governor.level.share
            duty_cycle((clock() - start) * (1 / share - 1))
            stamps.append(clock())
            shares.append(share)
            heat.work(stamps[-1] - start)
        asked.append(
            Question(tuple(stamps), float(np.mean(shares)), heat.model.case, heat.governor.level.name)
        )
    return asked


@dataclass(frozen=True)
class Throttling:
    """onset: the first question that is slower for good, or None. before, after: median steps/s of the questions before
    it, and of the last ones at one speed. drop: 1 - after / before, 0 where there is no onset."""

    onset: int | None
    before: float
    after: float
    drop: float


def find_throttling(stamps: Sequence[Sequence[float]], *, least: float = 0.08) -> Throttling:
    """When and by how much a run got slower, from timestamps of its questions' steps alone.

    A question's speed is that of its median step, so that single hiccups do not count. The onset is the split of the
    questions into two runs of constant speed with the least squared error of log speed, where the later one is slower
    by `least` or more; `after` is the speed of the last quarter of the questions, two at least.

    Source of the split: least-squares change point, Hinkley (1970).
    """
    if len(stamps) < 4 or any(len(each) < 2 for each in stamps):
        raise BadInput("finding throttling needs four questions or more with a step each")
    speeds = np.array([1 / np.median(np.diff(np.asarray(each, dtype=np.float64))) for each in stamps])
    if not np.isfinite(speeds).all() or (speeds <= 0).any():
        raise BadInput("timestamps must rise")
    values = np.log(speeds)

    def error(part: np.ndarray) -> float:
        return float(((part - part.mean()) ** 2).sum())

    cut = min(range(1, len(values)), key=lambda at: error(values[:at]) + error(values[at:]))
    last = float(np.median(speeds[-max(2, len(speeds) // 4) :]))
    # the first step down of several is the onset: split the part before the cut again while it steps down by as much
    while cut > 1:
        earlier = min(range(1, cut), key=lambda at: error(values[:at]) + error(values[at:cut]))
        if values[earlier:cut].mean() - values[:earlier].mean() > np.log(1 - least):
            break
        cut = earlier
    before = float(np.median(speeds[:cut]))
    if last > before * (1 - least):
        return Throttling(None, float(np.median(speeds)), last, 0.0)
    return Throttling(cut, before, last, 1 - last / before)
