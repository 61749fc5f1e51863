"""A throttled storage takes the time that its bandwidth and latency say, on a clock of the test's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.devices.storage import Read, ThrottledStorage
from ondevice.errors import BadInput

PATH, MEMORY = Path("file"), np.zeros(1, np.uint8)


class _Disk:
    """Every read takes `seconds`, on the clock that it holds."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def read(self, path: Path, offset: int, nbytes: int, into: object) -> _Ticket:
        return _Ticket(self, self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class _Ticket:
    def __init__(self, disk: _Disk, begin: float) -> None:
        self.disk, self.begin = disk, begin

    def wait(self) -> Read:
        self.disk.now = max(self.disk.now, self.begin + self.disk.seconds)
        return Read(self.begin, self.disk.now, True)


@given(
    sizes=st.lists(st.integers(1, 10_000_000), min_size=1, max_size=8),
    bandwidth=st.floats(1e5, 1e9),
    latency=st.floats(0, 0.1),
)
def test_requests_take_turns(sizes: list[int], bandwidth: float, latency: float) -> None:
    disk = _Disk(0.0)
    storage = ThrottledStorage(disk, bandwidth, latency, clock=lambda: disk.now, sleep=disk.sleep)
    tickets = [storage.read(PATH, 0, size, MEMORY) for size in sizes]
    ends = [ticket.wait().ended for ticket in tickets]
    expected = np.cumsum([latency + size / bandwidth for size in sizes])
    np.testing.assert_allclose(ends, expected)
    assert disk.now == pytest.approx(expected[-1])


def test_a_device_that_was_idle_owes_nothing() -> None:
    disk = _Disk(0.0)
    storage = ThrottledStorage(disk, 1000, clock=lambda: disk.now, sleep=disk.sleep)
    storage.read(PATH, 0, 1000, MEMORY).wait()
    disk.now = 50.0
    assert storage.read(PATH, 0, 1000, MEMORY).wait().ended == 51.0


def test_it_is_never_faster_than_the_disk() -> None:
    disk = _Disk(3.0)
    storage = ThrottledStorage(disk, 1e9, clock=lambda: disk.now, sleep=disk.sleep)
    assert storage.read(PATH, 0, 10, MEMORY).wait().ended == 3.0


@pytest.mark.parametrize(
    "bandwidth, latency", [(0, 0), (-1, 0), (float("nan"), 0), (1e9, -1), (1e9, float("inf"))]
)
def test_a_device_that_cannot_be_is_refused(bandwidth: float, latency: float) -> None:
    with pytest.raises(BadInput):
        ThrottledStorage(_Disk(0), bandwidth, latency)
