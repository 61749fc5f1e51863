"""Storage that reads in the background, and one of a stated speed for experiments.

Knows requests, bandwidth and latency. Knows nothing of files' contents; the disk itself is `runtime.io`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Read:
    """A read that is over. started, ended: seconds of `time.perf_counter`. direct: past the system's page cache."""

    started: float
    ended: float
    direct: bool


class Ticket(Protocol):
    """A read that goes on."""

    def wait(self) -> Read:
        """Return when it is over. Raises BadInput or BadArtifact where it failed. Call it once."""


class Storage(Protocol):
    """What weights are read from."""

    def read(self, path: Path, offset: int, nbytes: int, into: Bytes) -> Ticket:
        """Begin to read; see `runtime.io.FileStorage.read`."""


class ThrottledStorage:
    """A storage made as slow as a stated device, which serves one request after another.

    bandwidth: bytes/s. latency: seconds a request, before its first byte. The bytes are read as ever; a read that is
    over sooner than the device would have it is held back.
    """

    def __init__(
        self,
        storage: Storage,
        bandwidth: float,
        latency: float = 0.0,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not (math.isfinite(bandwidth) and bandwidth > 0 and math.isfinite(latency) and latency >= 0):
            raise BadInput(
                f"a storage of {bandwidth} bytes/s and {latency} s a request is none; give a bandwidth above zero "
                "and a latency that is not negative"
            )
        self._storage, self.bandwidth, self.latency = storage, bandwidth, latency
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free = -math.inf  # when the device has done what it was asked so far

    def read(self, path: Path, offset: int, nbytes: int, into: Bytes) -> Ticket:
        """As the storage below, in its turn."""
        with self._lock:
            begin = max(self._clock(), self._free)
            self._free = begin + self.latency + nbytes / self.bandwidth
            return _Held(self, self._storage.read(path, offset, nbytes, into), begin, self._free)


@dataclass(frozen=True)
class _Held:
    storage: ThrottledStorage
    ticket: Ticket
    begin: float
    end: float

    def wait(self) -> Read:
        done = self.ticket.wait()
        if (early := self.end - self.storage._clock()) > 0:
            self.storage._sleep(early)
        return replace(done, started=self.begin, ended=max(self.end, done.ended))
