"""Arms in processes of their own: what they see, how they fail, what is kept of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ondevice.errors import BadInput
from ondevice.measure.apart import Arm, side_by_side_apart


def sleeper(seconds: float) -> tuple[Callable[[], object], Callable[[], Any]]:
    return lambda: time.sleep(seconds), os.getpid


def logging(path: str, name: str) -> tuple[Callable[[], object], Callable[[], Any]]:
    """Writes when each call begins and ends."""

    def call() -> None:
        with Path(path).open("a") as log:
            log.write(f"{name} begins\n")
            log.flush()
            time.sleep(0.005)
            log.write(f"{name} ends\n")

    return call, lambda: name


def holder(size: int) -> tuple[Callable[[], object], Callable[[], Any]]:
    held = bytearray(size)
    return lambda: held[:1], lambda: len(held)


def refusing() -> Any:
    raise BadInput("nothing to open")


def failing() -> tuple[Callable[[], object], Callable[[], Any]]:
    return lambda: 1 // 0, lambda: None


def dying() -> tuple[Callable[[], object], Callable[[], Any]]:
    return lambda: os._exit(3), lambda: None


def talking() -> tuple[Callable[[], object], Callable[[], Any]]:
    return lambda: os.write(1, b"chatter"), lambda: None


def opening_slowly() -> tuple[Callable[[], object], Callable[[], Any]]:
    time.sleep(0.05)
    calls = iter(range(100))
    return lambda: {"call": float(next(calls)), "two": 2.0}, lambda: None


def test_what_a_call_knows_beside_its_time_is_kept_by_round() -> None:
    outcome = side_by_side_apart({"arm": Arm(opening_slowly)}, repeats=3, warmup=0, pause=0)["arm"]
    assert not isinstance(outcome, str)
    assert outcome.open_seconds >= 0.05
    # before each timed call there is one that is not, as calls are short
    assert outcome.parts == {"call": [1.0, 3.0, 5.0], "two": [2.0] * 3}


def test_every_arm_has_its_own_process_and_its_own_figures() -> None:
    outcomes = side_by_side_apart(
        {"short": Arm(sleeper, (0.002,)), "long": Arm(sleeper, (0.02,))}, repeats=5, warmup=1, pause=0
    )
    short, long = outcomes["short"], outcomes["long"]
    assert not isinstance(short, str)
    assert not isinstance(long, str)
    assert len({short.last, long.last, os.getpid()}) == 3
    assert short.seconds.n == long.seconds.n == 5
    assert short.seconds.min >= 0.002  # a clock and a sleep of the operating system agree on this much
    assert long.seconds.min >= 0.02


def test_one_arm_runs_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    side_by_side_apart({name: Arm(logging, (str(log), name)) for name in "abc"}, repeats=4, warmup=1, pause=0)
    lines = log.read_text().splitlines()
    assert len(lines) == 3 * 5 * 2 * 2  # arms, rounds, calls a round, lines a call
    assert all(
        (first.split()[0], first.split()[1], second.split()[1]) == (second.split()[0], "begins", "ends")
        for first, second in zip(lines[::2], lines[1::2], strict=True)
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the figure is exact on Linux")
def test_the_peak_is_the_arms_own() -> None:
    small, large = side_by_side_apart(
        {"small": Arm(holder, (1,)), "large": Arm(holder, (200_000_000,))}, repeats=1, warmup=0, pause=0
    ).values()
    assert not isinstance(small, str)
    assert not isinstance(large, str)
    assert 190e6 < large.peak_bytes - small.peak_bytes < 210e6


def test_an_arm_that_fails_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    arms = {name.__name__: Arm(name) for name in (refusing, failing, dying, talking)}
    outcomes = side_by_side_apart(arms, repeats=2, warmup=0, pause=0)
    assert "nothing to open" in str(outcomes["refusing"])
    assert "ZeroDivisionError" in str(outcomes["failing"])
    assert "exit status 3" in str(outcomes["dying"])
    assert not isinstance(outcomes["talking"], str)
    assert "chatter" not in capfd.readouterr().out


def test_an_arm_that_does_not_answer_is_given_up() -> None:
    outcome = side_by_side_apart({"slow": Arm(sleeper, (60,))}, repeats=1, warmup=0, pause=0, timeout=2)[
        "slow"
    ]
    assert outcome == "no answer within 2 s"


def test_bad_input() -> None:
    for arms, repeats, warmup in (({}, 1, 0), ({"a": Arm(failing)}, 0, 0), ({"a": Arm(failing)}, 1, -1)):
        with pytest.raises(BadInput):
            side_by_side_apart(arms, repeats, warmup=warmup)
