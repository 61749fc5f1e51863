"""Threads that do what a schedule says, in its order: some operations are a worker's, others the caller's own.

Knows operations, lanes and threads. Knows nothing of what an operation does. The schedule is the one that
`devices.simulate.pipeline` simulates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from ondevice.devices.simulate.pipeline import Schedule
from ondevice.measure.timeline import Timeline

Work = Callable[[int, int], None]


class Turns:
    """Workers, one a lane of `lanes`, do the operations that are not of kind "compute"; those are the caller's.

    work: does a piece of an operation, (its number, which piece). timeline: gets a span of the kind for
    each piece, of the lane for what the caller does, and "wait" for how long it waited for its turn. An error of a
    worker ends all and is raised by the caller's next turn.
    """

    def __init__(
        self, schedule: Schedule, work: Work, lanes: Sequence[str], timeline: Timeline | None = None
    ) -> None:
        self._schedule, self._work, self._timeline = schedule, work, timeline
        self._changed = threading.Condition()
        self._ended = False
        self._problem: BaseException | None = None
        self._own = [number for number, op in enumerate(schedule.ops) if op.kind == "compute"]
        self._next = 0  # of those
        self._going: tuple[int, float] | None = None
        self._pieces = [0] * len(schedule.ops)  # begun, of each
        self._left = {
            lane: sum(op.pieces for op in schedule.ops if op.lane == lane and op.kind != "compute")
            for lane in lanes
        }
        self._threads = [
            threading.Thread(target=self._serve, args=(lane,), name=f"turns {lane}", daemon=True)
            for lane in lanes
        ]
        for thread in self._threads:
            thread.start()

    def enter(self, number: int) -> None:
        """Begin operation `number` as soon as it is its turn; what the caller did before is over, and so is whatever of
        its own lies between. Raises what a worker raised."""
        self.leave()
        while self._own[self._next] != number:
            self._begin(self._own[self._next])
            self.leave()
        self._begin(number)

    def leave(self) -> None:
        """What the caller does is over; nothing where it does nothing."""
        if self._going is None:
            return
        (number, started), self._going = self._going, None
        op = self._schedule.ops[number]
        if self._timeline is not None:
            self._timeline.record(op.lane, op.name, started, time.perf_counter())
        with self._changed:
            self._schedule.finish(number)
            self._changed.notify_all()

    def go_on(self) -> bool:
        """Begin the caller's next operation; False where it was the last, and then the workers have ended too."""
        self.leave()
        if self._next < len(self._own):
            self._begin(self._own[self._next])
            return True
        self.end()
        return False

    def end(self) -> None:
        """Have the workers leave off after the piece that they are at, and wait until they have."""
        self.leave()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _begin(self, number: int) -> None:
        waits, lane = time.perf_counter(), self._schedule.ops[number].lane
        with self._changed:
            self._changed.wait_for(lambda: self._problem or self._schedule.next(lane) == number)
            if self._problem:
                raise self._problem
            self._schedule.start(number)
            self._next += 1
        self._going = number, time.perf_counter()
        if self._timeline is not None:
            self._timeline.record("wait", self._schedule.ops[number].name, waits, self._going[1])

    def _serve(self, lane: str) -> None:
        while self._left[lane]:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._problem or self._found(lane) is not None)
                number = self._found(lane)
                if self._ended or self._problem or number is None:
                    return
                self._schedule.start(number)
                piece, self._pieces[number] = self._pieces[number], self._pieces[number] + 1
            op, started = self._schedule.ops[number], time.perf_counter()
            try:
                self._work(number, piece)
            except BaseException as problem:  # the caller raises it
                with self._changed:
                    self._problem = problem
                    self._changed.notify_all()
                return
            if self._timeline is not None:
                self._timeline.record(op.kind, op.name, started, time.perf_counter())
            with self._changed:
                self._schedule.finish(number)
                self._left[lane] -= 1
                self._changed.notify_all()

    def _found(self, lane: str) -> int | None:
        """What a worker should do now, if anything."""
        number = self._schedule.next(lane)
        return None if number is None or self._schedule.ops[number].kind == "compute" else number
