"""Several ways to do one thing, each in a process of its own, measured in turn.

For engines whose threads would disturb each other in one process. Knows processes and callables; knows nothing of
what the arms are. See `sidebyside` for arms that can share a process.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ondevice.errors import BadInput
from ondevice.measure.memory import own_peak
from ondevice.measure.timing import Figure

_LONG = 0.2  # seconds of a call beside which finding its caches again is nothing

# What an arm gives when it is opened: the call that is timed, and a last word when timing is over. A call that knows
# more than how long it took returns it as {name: number}.
Opened = tuple[Callable[[], object], Callable[[], Any]]


@dataclass(frozen=True)
class Arm:
    """open(*arguments) is called once, in the arm's own process: importable by name, arguments that pickle."""

    open: Callable[..., Opened]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """seconds: of one call, samples in the order of the rounds. open_seconds: of opening, once, imports included.
    peak_bytes: resident memory of the process, from its start to its last call. last: the arm's last word.
    parts: by name, what every call returned as numbers, a list in the order of the rounds."""

    seconds: Figure
    open_seconds: float
    peak_bytes: int
    last: Any
    parts: dict[str, list[float]]


def side_by_side_apart(
    arms: Mapping[str, Arm],
    repeats: int = 31,
    *,
    warmup: int = 3,
    seed: int = 0,
    pause: float = 0.1,
    timeout: float = 600,
) -> dict[str, Outcome | str]:
    """The outcome of each arm, or why it has none (it did not open, failed, or took over `timeout` seconds once).

    One arm runs at a time; the others sleep. In every round each arm makes a call that is not timed, to find its
    caches again (unless calls are long), and one that is, in an order drawn anew by `seed`. pause: seconds between
    arms, in which the threads of the last one stop spinning.
    """
    if not arms or repeats < 1 or warmup < 0:
        raise BadInput("side_by_side_apart needs an arm, one repeat or more, and no negative warmup")
    processes: dict[str, _Process] = {}
    outcomes: dict[str, Outcome | str] = {}
    times: dict[str, list[float]] = {name: [] for name in arms}
    parts: dict[str, dict[str, list[float]]] = {name: {} for name in arms}
    random = np.random.default_rng(seed)
    try:
        for name, arm in arms.items():
            processes[name] = _Process(arm, timeout)
        for number in range(-warmup, repeats):
            for index in random.permutation(len(arms)):
                name = list(arms)[index]
                if name in outcomes:
                    continue
                reply = processes[name].ask("run")
                if isinstance(reply, str):
                    outcomes[name] = reply
                elif number >= 0:
                    times[name].append(reply[0])
                    for part, value in reply[1].items():
                        parts[name].setdefault(part, []).append(value)
                time.sleep(pause)
        for name in arms:
            if name not in outcomes:
                reply = processes[name].ask("finish")
                figure = Figure.of(times[name], "s")
                if isinstance(reply, str):
                    outcomes[name] = reply
                else:
                    opened = processes[name].open_seconds
                    outcomes[name] = Outcome(figure, opened, reply[0], reply[1], parts[name])
    finally:
        for process in processes.values():
            process.end()
    return {name: outcomes[name] for name in arms}


class _Process:
    """An arm's process, from outside."""

    def __init__(self, arm: Arm, timeout: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.timeout = timeout
        self.process = context.Process(target=_serve, args=(theirs, arm), daemon=True)
        self.process.start()
        theirs.close()
        opened = self._answer()  # waits until it is open, so that arms do not open at the same time
        self.problem = opened if isinstance(opened, str) else ""
        self.open_seconds = 0.0 if self.problem else opened

    def ask(self, question: str) -> Any:
        """The answer, or the problem as a text."""
        if self.problem:
            return self.problem
        try:
            self.connection.send(question)
        except OSError as error:
            return f"its process ended: {error}"
        return self._answer()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def _answer(self) -> Any:
        try:
            if not self.connection.poll(self.timeout):
                return f"no answer within {self.timeout:g} s"
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return f"its process ended, exit status {self.process.exitcode}"


def _serve(connection: Any, arm: Arm) -> None:
    """In the arm's process. A text is a problem."""
    os.dup2(2, 1)  # what an engine prints is no part of our caller's output
    try:
        start = time.perf_counter()
        call, last = arm.open(*arm.arguments)
        connection.send(time.perf_counter() - start)
        took = 0.0
        while connection.recv() == "run":
            if took < _LONG:
                call()
            start = time.perf_counter()
            result = call()
            took = time.perf_counter() - start
            connection.send((took, result if isinstance(result, dict) else {}))
        connection.send((own_peak(), last()))
    except EOFError:
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
