"""The roofline: arithmetic by hand, monotone, and calibration that recovers what made the runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.devices.energy import energy
from ondevice.devices.profile import Achieved, Device, Sourced, load
from ondevice.devices.roofline import Operation, Run, calibrate, latency
from ondevice.errors import BadInput


def device(compute: float = 1.0, bandwidth: float = 1.0, overhead: float = 0.0) -> Device:
    made_up = [Sourced(value, "made up for the test") for value in (compute, bandwidth, overhead)]
    return replace(load("raspberry-pi-4"), achieved=Achieved(*made_up))


def test_latency_by_hand() -> None:
    pi = device(compute=0.5, bandwidth=0.5, overhead=1e-3)
    heavy = Operation("heavy", macs=14.4e9, weight_bytes=0, activation_bytes=0)
    wide = Operation("wide", macs=0, weight_bytes=5.56e9, activation_bytes=0)
    assert latency([heavy], pi, threads=1) == pytest.approx(2 * 14.4e9 / (14.4e9 * 0.5) + 1e-3)
    assert latency([heavy], pi) == pytest.approx(1.0 + 1e-3)
    assert latency([wide], pi) == pytest.approx(2.0 + 1e-3)
    # Each operation is bound by its own side: the sum, not the maximum of sums.
    assert latency([heavy, wide], pi) == pytest.approx(3.0 + 2e-3)


def test_small_weights_are_read_from_the_cache() -> None:
    pi = device()
    small = [Operation("a", 0, 1e6, 0)]
    assert latency(small, pi) == pytest.approx(1e6 / 28.8e9)
    assert latency(small * 2, pi) == pytest.approx(2e6 / 5.56e9)


@given(
    macs=st.floats(0, 1e12), weights=st.floats(0, 1e9), activations=st.floats(0, 1e9), more=st.floats(1, 10)
)
def test_more_work_is_never_faster_or_cheaper(
    macs: float, weights: float, activations: float, more: float
) -> None:
    pi = load("raspberry-pi-4")
    less = [Operation("x", macs, weights, activations)]
    much = [Operation("x", macs * more, weights * more, activations * more)]
    assert latency(less, pi) <= latency(much, pi)
    assert latency(less, pi, threads=4) <= latency(less, pi, threads=1)
    assert 0 <= energy(less, pi) <= energy(much, pi)
    assert energy(less, pi) >= latency(less, pi) * pi.power["idle"].value


def test_a_device_that_only_computes_draws_its_active_power() -> None:
    pi = device(compute=0.4)
    work = [Operation("x", 1e12, 0, 0)]
    assert energy(work, pi) / latency(work, pi) == pytest.approx(pi.power["active"].value)
    with pytest.raises(BadInput, match="no power"):
        energy(work, replace(pi, power={}))


def runs(truth: Device, count: int, noise: float, seed: int) -> list[Run]:
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        sizes = 10 ** random.uniform([4, 3, 3], [8.5, 7.5, 6], size=(random.integers(1, 30), 3))
        work = [Operation(f"op{i}", *size) for i, size in enumerate(sizes.tolist())]
        made.append(Run(work, latency(work, truth) * float(np.exp(noise * random.standard_normal()))))
    return made


@pytest.mark.parametrize("truth", [(0.4, 0.7, 20e-6), (0.9, 0.2, 300e-6), (0.05, 1.0, 200e-6)])
def test_calibration_recovers_the_constants(truth: tuple[float, float, float]) -> None:
    found = calibrate(runs(device(*truth), 60, noise=0.03, seed=5), device(), seed=1)
    assert found.device.achieved is not None
    assert found.device.achieved.compute.value == pytest.approx(truth[0], rel=0.15)
    assert found.device.achieved.bandwidth.value == pytest.approx(truth[1], rel=0.15)
    assert found.device.achieved.overhead.value == pytest.approx(truth[2], rel=0.25)
    assert (found.seen, found.unseen) == (45, 15)
    assert found.median_error < 0.06


def test_noise_shows_in_the_error_on_unseen_runs() -> None:
    truth = device(0.4, 0.7, 20e-6)
    errors = [calibrate(runs(truth, 60, noise, seed=5), device()).median_error for noise in (0.0, 0.1, 0.5)]
    assert errors[0] < 1e-6 < errors[1] < errors[2]
    # Times that have nothing to do with the work cannot be predicted, and the report says so.
    shuffled = [Run(run.work, float(10 ** np.random.default_rng(i).uniform(-4, 0))) for i, run in
                enumerate(runs(truth, 60, 0, seed=5))]  # fmt: skip
    assert calibrate(shuffled, device()).median_error > 0.3


def test_what_the_runs_cannot_tell_keeps_the_profile_s_value() -> None:
    truth = device(0.4, 0.7, 20e-6)
    computing = [Run([Operation("x", macs, 0, 0)], latency([Operation("x", macs, 0, 0)], truth))
                 for macs in np.logspace(6, 10, 12)]  # fmt: skip
    found = calibrate(computing, device(bandwidth=0.33))
    assert found.device.achieved is not None
    assert "bandwidth" not in found.identified
    assert found.device.achieved.bandwidth.value == 0.33
    assert found.device.achieved.compute.value == pytest.approx(0.4)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="at least one"):
        latency([], device())
    with pytest.raises(BadInput, match="finite"):
        Operation("x", float("nan"), 0, 0)
    with pytest.raises(BadInput, match="6 runs"):
        calibrate([Run([Operation("x", 1, 1, 1)], 1.0)] * 5, device())
    with pytest.raises(BadInput, match="above zero"):
        calibrate([Run([Operation("x", 1, 1, 1)], 0.0)] * 8, device())
