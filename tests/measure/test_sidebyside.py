"""Side by side: arms interleave in drawn orders; the interval covers what it should and decides."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.measure.sidebyside import bootstrap_ratio, paired_bootstrap, side_by_side, verdict
from ondevice.measure.timing import Figure


def test_every_round_calls_every_arm_once_in_changing_order() -> None:
    calls: list[str] = []
    arms = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    figures = side_by_side(arms, repeats=20, warmup=2, seed=3)
    assert calls[:6] == ["a", "a", "b", "b", "c", "c"]
    rounds = ["".join(calls[6 + 3 * i : 9 + 3 * i]) for i in range(20)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len(set(rounds)) > 3
    assert {name: figure.n for name, figure in figures.items()} == {"a": 20, "b": 20, "c": 20}
    calls.clear()
    side_by_side(arms, repeats=20, warmup=0, seed=3)
    assert "".join(calls) == "".join(rounds)


def test_the_interval_agrees_with_scipy() -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    a = random.normal(10, 1, 80)
    b = a + random.normal(0.5, 1, 80)

    def gain(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean(y - x))

    ours = paired_bootstrap(a, b, gain, seed=1, resamples=4000)
    theirs = scipy_stats.bootstrap(
        (a, b), gain, paired=True, vectorized=False, method="percentile", n_resamples=4000, random_state=2
    ).confidence_interval
    assert ours == pytest.approx(theirs, abs=0.03)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        a = random.normal(0, 1, 40)
        b = a + random.normal(0.3, 1, 40)
        low, high = paired_bootstrap(a, b, lambda x, y: float((y - x).mean()), seed=trial, resamples=300)
        covered += low <= 0.3 <= high
    assert 85 <= covered <= 100


def figure(scale: float, noise: float, seed: int, count: int = 31) -> Figure:
    return Figure.of(list(scale * np.exp(noise * np.random.default_rng(seed).standard_normal(count))), "s")


def test_verdict() -> None:
    base = figure(1.0, 0.02, seed=0)
    assert verdict(base, figure(0.5, 0.02, seed=1)) == "lower"
    assert verdict(base, figure(2.0, 0.02, seed=1)) == "higher"
    assert verdict(base, figure(0.9, 0.02, seed=1)) == "lower"  # under 20 %, but the interval is clear
    assert verdict(base, figure(1.0, 0.02, seed=1)) == "tie"
    assert verdict(figure(1.0, 0.8, seed=0), figure(1.25, 0.8, seed=1)) == "tie"  # over 20 %, but only noise
    low, high = bootstrap_ratio(base, figure(0.5, 0.02, seed=1))
    assert 0.48 < low < 0.5 < high < 0.52 or 0.48 < low < high < 0.52


def test_verdict_without_samples_takes_differences_under_a_fifth_for_ties() -> None:
    a = Figure(1.0, 0.9, 1.1, 5, "s", "measured")
    for median, word in ((0.85, "tie"), (1.15, "tie"), (0.75, "lower"), (1.25, "higher")):
        assert verdict(a, Figure(median, median, median, 5, "s", "measured")) == word


def test_bad_input() -> None:
    with pytest.raises(BadInput):
        side_by_side({})
    with pytest.raises(BadInput, match="equal length"):
        paired_bootstrap([1.0, 2.0], [1.0], lambda x, y: 0.0)
    with pytest.raises(BadInput, match="finite"):
        paired_bootstrap([1.0, float("nan")], [1.0, 2.0], lambda x, y: 0.0)
    with pytest.raises(BadInput, match="cannot set"):
        verdict(Figure.of([1.0], "s"), Figure.modelled(1.0, "s"))


def cached_share(path: Path) -> float:
    """Of a file's pages, by mincore(2)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        present = (ctypes.c_ubyte * pages)()
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(mapped)), present) == 0
        return sum(page & 1 for page in present) / pages


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="posix_fadvise is of Linux")
def test_cold_files_are_read_from_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(8 << 20))
    shares = []

    def read() -> None:
        shares.append(cached_share(file))
        file.read_bytes()

    side_by_side({"read": read}, 3, warmup=1)
    assert min(shares) > 0.9
    shares.clear()
    side_by_side({"read": read}, 3, warmup=0, cold=[file])
    assert max(shares) < 0.5
