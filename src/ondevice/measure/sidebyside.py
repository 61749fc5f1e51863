"""Several ways to do one thing, measured in turn, and whether they differ.

Knows callables and resampling. Knows nothing of what the arms are.

Source of the interval: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), percentile method.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.measure.timing import Figure, seconds

Vector = npt.NDArray[np.float64]
TIE = 0.2  # differences below this share are ties unless the interval says otherwise


def side_by_side(
    arms: Mapping[str, Callable[[], object]],
    repeats: int = 31,
    *,
    warmup: int = 3,
    seed: int = 0,
    cold: Iterable[str | Path] = (),
) -> dict[str, Figure]:
    """Seconds of one call of each arm, measured in rounds.

    Every round calls every arm once, in an order drawn anew by `seed`, so that a slow moment of the machine
    meets all arms alike. `samples[i]` of every figure is round i. cold: files that the system forgets before
    each measured call, see `drop_cached`.
    """
    files = list(cold)
    if not arms or repeats < 1 or warmup < 0:
        raise BadInput("side_by_side needs an arm, one repeat or more, and no negative warmup")
    for arm in arms.values():
        for _ in range(warmup):
            arm()
    names, random = list(arms), np.random.default_rng(seed)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for index in random.permutation(len(names)):
            drop_cached(files)
            samples[names[index]].append(seconds(arms[names[index]]))
    return {name: Figure.of(values, "s") for name, values in samples.items()}


def drop_cached(files: Iterable[str | Path]) -> None:
    """Have the system forget the cached pages of files, so that the next read comes from the disk.

    Pages that a process has mapped stay. Raises BadInput where the system cannot do it (macOS, Windows).
    """
    for file in files:
        if not hasattr(os, "posix_fadvise"):
            raise BadInput("this system cannot drop a file's cached pages; measure cold reads on Linux")
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are still to be written cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def paired_bootstrap(
    a: Sequence[float] | Vector,
    b: Sequence[float] | Vector,
    statistic: Callable[[Vector, Vector], float],
    *,
    seed: int = 0,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Interval of statistic(a, b), where a[i] and b[i] belong together (one query, one round).

    a, b: shape (n,), n at least 2, drawn again together. Raises BadInput for other shapes and NaN.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise BadInput(f"pairs of two rows of equal length, 2 or more, not {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()) or not 0 < confidence < 1:
        raise BadInput("samples must be finite and the confidence between 0 and 1")
    random = np.random.default_rng(seed)
    draws = random.integers(0, len(first), size=(resamples, len(first)))
    values = [statistic(first[draw], second[draw]) for draw in draws]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_ratio(a: Figure, b: Figure, *, seed: int = 0) -> tuple[float, float]:
    """95 % interval of median(b) / median(a), over rounds of `side_by_side`."""
    return paired_bootstrap(a.samples, b.samples, lambda x, y: float(np.median(y) / np.median(x)), seed=seed)


def verdict(a: Figure, b: Figure, *, seed: int = 0) -> Literal["tie", "lower", "higher"]:
    """Whether b is lower or higher than a, or neither.

    Where both kept the samples of the same rounds, their interval decides; else a difference under 20 % of
    a's median is a tie.
    """
    if (a.unit, a.kind) != (b.unit, b.kind):
        raise BadInput(f"cannot set {a.kind} {a.unit!r} against {b.kind} {b.unit!r}")
    if a.median <= 0:
        raise BadInput(f"no ratio to a median of {a.median}")
    low = high = b.median / a.median
    threshold = TIE
    if min(len(a.samples), len(b.samples)) >= 5 and len(a.samples) == len(b.samples):
        low, high = bootstrap_ratio(a, b, seed=seed)
        threshold = 0.0
    if high < 1 - threshold:
        return "lower"
    return "higher" if low > 1 + threshold else "tie"
