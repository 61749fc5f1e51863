"""How long a workload takes on a device, from counts and the profile; and fitting the model's free constants.

Knows counts (multiply-accumulates, bytes) and profiles. Knows nothing of models and runs nothing: what it
says is modelled, never measured.

Source: Williams, Waterman, Patterson, "Roofline" (2009), plus a fixed cost an operation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ondevice.devices.profile import Achieved, Device, NumberFormat, Sourced
from ondevice.errors import BadInput

_IDEAL = Achieved(
    Sourced(1.0, "assumed: the roofline bound"),
    Sourced(1.0, "assumed: the roofline bound"),
    Sourced(0.0, "assumed: the roofline bound"),
)


@dataclass(frozen=True)
class Operation:
    """One operation of a model: multiply-accumulates, bytes of weights that it reads, bytes of activations
    that it reads and writes, and the number format it computes in (weights may be stored narrower)."""

    name: str
    macs: float
    weight_bytes: float
    activation_bytes: float
    number_format: NumberFormat = "fp32"

    def __post_init__(self) -> None:
        for what in (self.macs, self.weight_bytes, self.activation_bytes):
            if not math.isfinite(what) or what < 0:
                raise BadInput(f"operation {self.name}: counts must be finite and not negative, not {what}")


Work = Sequence[Operation]


@dataclass(frozen=True)
class Run:
    """A measured run: the work, the seconds it took, the threads it had (None: all cores)."""

    work: Work
    seconds: float
    threads: int | None = None


@dataclass(frozen=True)
class Calibration:
    """A device with fitted constants, and how wrong they are on runs that the fit did not see.

    median_error, worst_error: |modelled - measured| / measured over `unseen` runs.
    identified: constants that the runs determine; the others kept the profile's value.
    """

    device: Device
    median_error: float
    worst_error: float
    seen: int
    unseen: int
    identified: tuple[str, ...]


def latency(work: Work, device: Device, threads: int | None = None) -> float:
    """Modelled seconds: sum over operations of max(ops / peak, bytes / bandwidth) + overhead.

    Weights are read from the fastest tier that holds all weights of the work (as in repeated runs), an
    operation's activations from the fastest that holds them. Raises BadInput for empty work or a number
    format that the device cannot compute.
    """
    if not work:
        raise BadInput("no operations given; a workload needs at least one")
    achieved = device.achieved or _IDEAL
    compute, traffic = _times(work, device, threads)
    busy = np.maximum(compute / achieved.compute.value, traffic / achieved.bandwidth.value)
    return float(busy.sum() + len(work) * achieved.overhead.value)


def calibrate(runs: Sequence[Run], device: Device, *, holdout: float = 0.25, seed: int = 0) -> Calibration:
    """Fit what software achieves of the device's figures (compute, bandwidth, overhead) on measured runs.

    A share `holdout` of the runs, drawn by `seed`, is kept out of the fit; the errors are on those alone.
    Least squares of the relative error under non-negative constants. Needs 6 runs of different work.
    """
    if len(runs) < 6 or not 0 < holdout <= 0.5:
        raise BadInput(
            f"calibration needs 6 runs and a holdout of half or less, not {len(runs)} and {holdout}"
        )
    if any(not math.isfinite(run.seconds) or run.seconds <= 0 for run in runs):
        raise BadInput("the seconds of a run must be finite and above zero")
    order = np.random.default_rng(seed).permutation(len(runs))
    unseen_count = max(1, round(holdout * len(runs)))
    unseen, seen = [runs[i] for i in order[:unseen_count]], [runs[i] for i in order[unseen_count:]]

    slowness = _fit([_times(run.work, device, run.threads) for run in seen], [run.seconds for run in seen])
    prior = device.achieved or _IDEAL
    source = f"calibrated on {len(seen)} runs"
    # A constant that never limits a run cannot be read from the runs: 1/0 would claim an infinite speed.
    compute = Sourced(1 / slowness[0], source) if slowness[0] > 0 else prior.compute
    bandwidth = Sourced(1 / slowness[1], source) if slowness[1] > 0 else prior.bandwidth
    fitted = replace(device, achieved=Achieved(compute, bandwidth, Sourced(slowness[2], source)))
    errors = [abs(latency(run.work, fitted, run.threads) - run.seconds) / run.seconds for run in unseen]
    names = ("compute", "bandwidth", "overhead")
    return Calibration(
        device=fitted,
        median_error=float(np.median(errors)),
        worst_error=max(errors),
        seen=len(seen),
        unseen=len(unseen),
        identified=tuple(name for name, value in zip(names, slowness, strict=True) if value > 0),
    )


Vector = npt.NDArray[np.float64]


def _times(work: Work, device: Device, threads: int | None) -> tuple[Vector, Vector]:
    """Seconds of computing and of moving bytes, an operation, at the profile's full speed."""
    weights = device.tier_for(sum(operation.weight_bytes for operation in work))
    compute = [2 * op.macs / device.peak(op.number_format, threads) for op in work]
    traffic = [
        op.weight_bytes / weights.bandwidth.value
        + op.activation_bytes / device.tier_for(op.activation_bytes).bandwidth.value
        for op in work
    ]
    return np.array(compute), np.array(traffic)


def _fit(times: list[tuple[Vector, Vector]], seconds: list[float]) -> tuple[float, float, float]:
    """(1/compute, 1/bandwidth, overhead) that minimise the relative error.

    Linear once it is known which side of each maximum is the larger; that is guessed from many ratios of the
    two constants, and repeated with the fitted ratio until it settles. The best of all starts wins.
    """
    compute = np.concatenate([c for c, _ in times])
    traffic = np.concatenate([t for _, t in times])
    counts = np.array([len(c) for c, _ in times], dtype=np.float64)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.intp)
    measured = np.array(seconds)
    best, best_loss = (1.0, 1.0, 0.0), math.inf
    for start in np.logspace(-3, 3, 13):
        ratio = float(start)
        for _ in range(10):
            bound = compute * ratio >= traffic
            columns = [np.add.reduceat(np.where(side, cost, 0.0), first)
                       for side, cost in ((bound, compute), (~bound, traffic))]  # fmt: skip
            rows = np.stack([*columns, counts], axis=1)
            solution = _non_negative(rows / measured[:, None], np.ones(len(rows)))
            previous, ratio = ratio, solution[0] / solution[1] if solution[1] > 0 else math.inf
            if ratio == previous or not math.isfinite(ratio):
                break
        busy = np.add.reduceat(np.maximum(compute * solution[0], traffic * solution[1]), first)
        loss = float((((busy + counts * solution[2]) / measured - 1) ** 2).sum())
        if loss < best_loss:
            best, best_loss = solution, loss
    return best


def _non_negative(matrix: Vector, target: Vector) -> tuple[float, float, float]:
    """Non-negative least squares in three unknowns, exactly: the best of all sets of unknowns left free."""
    best, best_loss = np.zeros(3), math.inf
    for mask in range(1, 8):
        free = [column for column in range(3) if mask >> column & 1]
        answer, *_ = np.linalg.lstsq(matrix[:, free], target, rcond=None)
        loss = float(((matrix[:, free] @ answer - target) ** 2).sum())
        if (answer >= 0).all() and loss < best_loss:
            best, best_loss = np.zeros(3), loss
            best[free] = answer
    return float(best[0]), float(best[1]), float(best[2])
