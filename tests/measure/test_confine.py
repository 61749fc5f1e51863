"""What is confined cannot hold more than its limit: the system says so, not we."""

from __future__ import annotations

import multiprocessing
import signal

import pytest

from ondevice.errors import BadInput, MissingTool
from ondevice.measure.confine import Confined, confine


def hold(confined: Confined, nbytes: int) -> None:
    """Touch so much memory."""
    confined.enter()
    bytes(bytearray(b"x") * nbytes)


def status_of(confined: Confined, nbytes: int) -> int | None:
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(confined, nbytes))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture
def confined():
    try:
        with confine(60_000_000) as made:
            yield made
    except MissingTool as problem:
        pytest.skip(str(problem))


def test_less_than_the_limit_is_held_and_more_is_not(confined: Confined) -> None:
    assert status_of(confined, 10_000_000) == 0
    assert 20_000_000 <= confined.peak_bytes() <= 60_000_000
    assert status_of(confined, 100_000_000) == -signal.SIGKILL
    assert confined.peak_bytes() <= 60_000_000


def test_nothing_is_left_behind(confined: Confined) -> None:
    with confine(10_000_000) as other:
        assert other.folder.exists()
        assert other.folder != confined.folder
    assert not other.folder.exists()


def test_what_a_killed_process_left_is_removed(confined: Confined) -> None:
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    left = confined.folder.with_name(f"ondevice-{process.pid}-0")
    left.mkdir()
    with confine(10_000_000):
        assert not left.exists()
    assert confined.folder.exists()


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput), confine(0):
        pass
