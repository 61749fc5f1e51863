"""An accelerator that a normal and a secure world share, and the two drivers that hand it back and forth.

Knows jobs, who may launch them, and who is next. Knows nothing of what a job computes. The normal world's driver keeps
the queue and the power (control plane); the secure world's sets jobs up, launches them and sees them end (data plane).
A secure job waits in the common queue as an empty shadow. This simulates the hardware's guards; it is not isolation.

Source: "TZ-LLM: Protecting On-Device Large Language Models with Arm TrustZone", co-driver design.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from ondevice.errors import BadInput, ProtocolViolation

World = Literal["normal", "secure"]


class SimNPU:
    """The device: registers and interrupt belong to one world, one job runs at a time, secure memory is open to it or
    not. events: what happened, in order. The methods refuse what the hardware would."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._world: World = "normal"
        self._open = False
        self._running: World | None = None
        self._changed = threading.Condition()

    @contextmanager
    def job(self, world: World) -> Iterator[None]:
        """While a job of a world runs. Raises ProtocolViolation where the device is not its to use, or is busy."""
        with self._changed:
            if world != self._world or self._running or (world == "secure" and not self._open):
                raise ProtocolViolation(f"the accelerator is not the {world} world's to launch on now")
            self._running = world
            self.events.append(f"{world} job begins")
        try:
            yield
        finally:
            with self._changed:
                self._running = None
                self.events.append(f"{world} job ends")
                self._changed.notify_all()

    def isolate(self) -> None:
        """Registers and interrupt to the secure world; a normal job that runs goes on."""
        with self._changed:
            if self._world == "secure":
                raise ProtocolViolation("the accelerator is the secure world's already")
            self._world = "secure"
            self.events.append("isolated")

    def wait_idle(self) -> None:
        """Until no job runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._running is None)

    def open_memory(self) -> None:
        """Let the device reach secure memory. Raises ProtocolViolation while a normal job might see it."""
        with self._changed:
            if self._world != "secure" or self._running:
                raise ProtocolViolation(
                    "secure memory stays closed while the normal world uses the accelerator"
                )
            self._open = True
            self.events.append("memory opened")

    def give_back(self) -> None:
        """Close secure memory, then registers and interrupt to the normal world."""
        with self._changed:
            if self._running:
                raise ProtocolViolation("a secure job still runs on the accelerator")
            self._open, self._world = False, "normal"
            self.events.append("given back")


class CoDriver:
    """The secure half: which jobs were set up, which of them is next, and each only once."""

    def __init__(self, npu: SimNPU) -> None:
        self.npu = npu
        self._initialised: set[int] = set()  # and not yet issued
        self._made = self._expected = 0
        self._one = threading.Lock()

    def prepare(self) -> int:
        """Set up a job; the number that its shadow carries through the normal world's queue."""
        number, self._made = self._made, self._made + 1
        self._initialised.add(number)
        return number

    @contextmanager
    def issued(self, shadow: int) -> Iterator[None]:
        """The normal world says that a shadow is scheduled; the block is the job.

        The device is taken, and its secure memory opened, only once the running job has ended. Raises ProtocolViolation
        where the job was never set up, was issued before, or is not the next; then the device goes back unused.
        """
        with self._one:
            self.npu.isolate()
            try:
                self.npu.wait_idle()
                self.npu.open_memory()
                self._check(shadow)
                self._initialised.remove(shadow)
                self._expected += 1
                with self.npu.job("secure"):
                    yield
            finally:
                self.npu.give_back()

    def _check(self, shadow: int) -> None:
        if not 0 <= shadow < self._made:
            raise ProtocolViolation(f"shadow job {shadow} was never set up: it is forged")
        if shadow not in self._initialised:
            raise ProtocolViolation(f"shadow job {shadow} was issued before: it is replayed")
        if shadow != self._expected:
            raise ProtocolViolation(f"shadow job {shadow} is out of order: {self._expected} is next")


class ControlPlane:
    """The normal half: one queue for the jobs of both worlds. secure: called with a shadow's number in its turn."""

    def __init__(self, npu: SimNPU | None, secure: Callable[[int], None]) -> None:
        self._npu, self._secure = npu, secure
        self._queue: deque[Callable[[], object] | int] = deque()

    def submit(self, job: Callable[[], object]) -> None:
        """A job of the normal world."""
        self._queue.append(job)

    def submit_shadow(self, number: int) -> None:
        """A job of the secure world, of which only its number is known."""
        self._queue.append(number)

    def turn(self) -> bool:
        """Have the next job run; False where there is none. Raises BadInput for a normal job without a device."""
        if not self._queue:
            return False
        job = self._queue.popleft()
        if isinstance(job, int):
            self._secure(job)
            return True
        if self._npu is None:
            raise BadInput("this queue has no accelerator for jobs of the normal world")
        with self._npu.job("normal"):
            job()
        return True
