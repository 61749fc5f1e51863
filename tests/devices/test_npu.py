"""The accelerator of two worlds: what one world says out of turn the other refuses, and the device goes back unused."""

from __future__ import annotations

import threading

import pytest

from ondevice.devices.npu import CoDriver, ControlPlane, SimNPU
from ondevice.errors import BadInput, ProtocolViolation


def issue(driver: CoDriver, shadow: int) -> None:
    with driver.issued(shadow):
        driver.npu.events.append(f"work {shadow}")


def test_jobs_of_both_worlds_in_one_queue() -> None:
    npu = SimNPU()
    driver = CoDriver(npu)
    plane = ControlPlane(npu, lambda shadow: issue(driver, shadow))
    plane.submit(lambda: npu.events.append("picture"))
    for _ in range(2):
        plane.submit_shadow(driver.prepare())
        plane.submit(lambda: npu.events.append("picture"))
    while plane.turn():
        pass
    secure = ["isolated", "memory opened", "secure job begins", "work {}", "secure job ends", "given back"]
    normal = ["normal job begins", "picture", "normal job ends"]
    assert npu.events == [
        *normal, *(each.format(0) for each in secure), *normal, *(each.format(1) for each in secure), *normal,
    ]  # fmt: skip


def test_secure_memory_opens_only_after_the_normal_job_that_runs() -> None:
    npu, begun, end = SimNPU(), threading.Event(), threading.Event()
    driver = CoDriver(npu)

    def normal() -> None:
        with npu.job("normal"):
            begun.set()
            end.wait(10)

    thread = threading.Thread(target=normal)
    thread.start()
    begun.wait(10)
    secure = threading.Thread(target=issue, args=(driver, driver.prepare()))
    secure.start()
    while "isolated" not in npu.events:
        pass
    with pytest.raises(ProtocolViolation, match="stays closed"):
        npu.open_memory()
    with pytest.raises(ProtocolViolation, match="not the normal world's"), npu.job("normal"):
        pass
    end.set()
    thread.join()
    secure.join()
    assert npu.events.index("normal job ends") < npu.events.index("memory opened")


@pytest.mark.parametrize(
    ("shadows", "says"),
    [
        ((0, 0), "replayed"),
        ((1,), "out of order"),
        ((0, 2), "out of order"),
        ((7,), "forged"),
        ((-1,), "forged"),
    ],
)
def test_what_was_not_agreed_is_refused(shadows: tuple[int, ...], says: str) -> None:
    npu = SimNPU()
    driver = CoDriver(npu)
    for _ in range(3):
        driver.prepare()
    for shadow in shadows[:-1]:
        issue(driver, shadow)
    done = npu.events.count("secure job begins")
    with pytest.raises(ProtocolViolation, match=says):
        issue(driver, shadows[-1])
    assert npu.events.count("secure job begins") == done
    with npu.job("normal"):  # it was given back
        pass
    issue(driver, len(shadows) - 1)  # what is next still is


def test_a_job_that_runs_is_not_issued_again() -> None:
    driver, refused = CoDriver(SimNPU()), list[str]()
    shadow = driver.prepare()

    def again() -> None:
        try:
            issue(driver, shadow)
        except ProtocolViolation as problem:
            refused.append(str(problem))

    other = threading.Thread(target=again)
    with driver.issued(shadow):
        other.start()
        other.join(0.05)
        assert not refused  # it waits for the device
    other.join()
    assert "replayed" in refused[0]


def test_the_device_refuses_what_the_hardware_would() -> None:
    npu = SimNPU()
    with pytest.raises(ProtocolViolation, match="secure world's to launch"), npu.job("secure"):
        pass
    npu.isolate()
    with pytest.raises(ProtocolViolation, match="already"):
        npu.isolate()
    with pytest.raises(ProtocolViolation, match="secure world's to launch"), npu.job("secure"):
        pass  # its memory is not open
    npu.open_memory()
    with npu.job("secure"), pytest.raises(ProtocolViolation, match="still runs"):
        npu.give_back()
    npu.give_back()
    plane = ControlPlane(None, lambda shadow: None)
    plane.submit(lambda: None)
    with pytest.raises(BadInput, match="no accelerator"):
        plane.turn()
