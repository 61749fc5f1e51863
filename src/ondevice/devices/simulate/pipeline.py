"""A pipeline of operations on several resources, event by event, with durations that are given.

Knows operations, what they wait for, and lanes that do one thing at a time. Knows nothing of what an operation does.
Who goes first is a `Schedule`'s business, so that the one that a real run obeys is the one that is simulated.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ondevice.errors import BadInput, MissingExtra


@dataclass(frozen=True)
class Op:
    """lane: the resource that does it. seconds: that it takes. needs: numbers of the operations that come first.
    pieces: how many equal parts it is cut into; between two of them its lane may do something else. kind: what it is
    ("read", …). serves: number of the operation that it is done for, its own where that is itself."""

    name: str
    lane: str
    kind: str
    seconds: float = 0.0
    needs: tuple[int, ...] = field(default=())
    pieces: int = 1
    serves: int = 0


@dataclass(frozen=True)
class Ran:
    """A piece of an operation that was done, in seconds from the start."""

    number: int
    start: float
    end: float


@dataclass(frozen=True)
class Bounds:
    """What no order can beat. lanes: seconds of work of each. path: of the longest chain of operations."""

    lanes: dict[str, float]
    path: float

    @property
    def seconds(self) -> float:
        return max(self.path, *self.lanes.values())


class Schedule(Protocol):
    """Who goes first. ops: as they are done, whole or in pieces."""

    ops: Sequence[Op]

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""

    def next(self, lane: str) -> int | None:
        """Number of what an idle lane should do now; None where it should wait."""

    def start(self, number: int) -> None:
        """A piece of it begins."""

    def finish(self, number: int) -> None:
        """That piece is over."""


def check(ops: Sequence[Op]) -> None:
    """Raises BadInput for an empty graph, an operation that waits for a later one, and durations below zero."""
    if not ops:
        raise BadInput("a pipeline needs an operation")
    for number, op in enumerate(ops):
        if any(not 0 <= need < number for need in op.needs):
            raise BadInput(
                f"{op.name} waits for operations {op.needs}, which do not all come before it ({number})"
            )
        if not op.seconds >= 0 or op.seconds == float("inf") or op.pieces < 1:
            raise BadInput(
                f"{op.name} takes {op.seconds} s in {op.pieces} pieces; give 0 or more in 1 or more"
            )


def bounds(ops: Sequence[Op]) -> Bounds:
    """The least time that each lane and the longest chain need. Raises BadInput as `check`."""
    check(ops)
    lanes: dict[str, float] = {}
    ends: list[float] = []
    for op in ops:
        lanes[op.lane] = lanes.get(op.lane, 0.0) + op.seconds
        ends.append(op.seconds + max((ends[need] for need in op.needs), default=0.0))
    return Bounds(lanes, max(ends))


def simulate(schedule: Schedule) -> list[Ran]:
    """Do everything; what was done, in the order in which it ended.

    Raises BadInput where the schedule lets everybody wait for ever, MissingExtra without SimPy.
    """
    try:
        import simpy
    except ImportError as error:
        raise MissingExtra("simpy", "hardware", "for simulation event by event") from error

    clock = simpy.Environment()
    changed = clock.event()
    ran: list[Ran] = []

    def lane(name: str) -> Generator[Any, Any, None]:
        nonlocal changed
        while not schedule.over:
            number = schedule.next(name)
            if number is None:
                yield changed
                continue
            schedule.start(number)
            start, op = clock.now, schedule.ops[number]
            yield clock.timeout(op.seconds / op.pieces)
            ran.append(Ran(number, start, clock.now))
            schedule.finish(number)
            before, changed = changed, clock.event()
            before.succeed()

    for name in dict.fromkeys(op.lane for op in schedule.ops):
        clock.process(lane(name))
    clock.run()
    if not schedule.over:
        raise BadInput("the schedule lets every lane wait for another; nothing can go on")
    return ran
