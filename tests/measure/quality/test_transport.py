"""Optimal transport against POT and SciPy."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput, MissingExtra
from ondevice.measure.quality.transport import (
    gaussian_w2,
    optimal_plan,
    sliced_wasserstein,
    wasserstein,
    wasserstein_1d,
)


def clouds(seed: int, n: int = 30, m: int = 20, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)), 0.5 + 1.5 * random.standard_normal((m, d))


def weights(seed: int, count: int) -> np.ndarray:
    mass = np.random.default_rng(seed).random(count)
    return mass / mass.sum()


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("sizes", [(25, 25), (30, 20), (7, 50)])
def test_exact_against_pot(p: float, sizes: tuple[int, int]) -> None:
    ot = pytest.importorskip("ot")
    x, y = clouds(1, *sizes)
    cost = ot.dist(x, y, metric="euclidean") ** p
    assert wasserstein(x, y, p=p) == pytest.approx(ot.emd2([], [], cost) ** (1 / p))
    a, b = weights(2, len(x)), weights(3, len(y))
    assert wasserstein(x, y, a, b, p) == pytest.approx(ot.emd2(a, b, cost) ** (1 / p))
    plan, _ = optimal_plan(x, y, a, b, p)
    np.testing.assert_allclose(plan.sum(axis=1), a, atol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), b, atol=1e-9)
    assert plan.min() >= -1e-12


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("sizes", [(25, 25), (30, 20), (7, 50)])
def test_numbers_against_pot_and_scipy(p: int, sizes: tuple[int, int]) -> None:
    ot = pytest.importorskip("ot")
    x, y = clouds(4, *sizes)
    np.testing.assert_allclose(wasserstein_1d(x, y, p), ot.wasserstein_1d(x, y, p=p) ** (1 / p))
    if p == 1:
        from scipy.stats import wasserstein_distance

        assert wasserstein_1d(x[:, :1], y[:, :1], 1)[0] == pytest.approx(
            wasserstein_distance(x[:, 0], y[:, 0])
        )


def test_sliced_against_pot() -> None:
    ot = pytest.importorskip("ot")
    x, y = clouds(5)
    random = np.random.default_rng(9)
    directions = random.standard_normal((3, 400))
    directions /= np.linalg.norm(directions, axis=0)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions)
    assert sliced_wasserstein(x, y, 400, seed=9) == pytest.approx(expected)
    assert sliced_wasserstein(x, y, 50, seed=1) == sliced_wasserstein(x, y, 50, seed=1)


@pytest.mark.parametrize("seed", range(4))
def test_gaussians_against_pot(seed: int) -> None:
    ot = pytest.importorskip("ot")
    random = np.random.default_rng(seed)
    a, b = random.standard_normal((2, 6, 6))
    m, n = random.standard_normal((2, 6))
    expected = ot.gaussian.bures_wasserstein_distance(m, n, a @ a.T, b @ b.T)
    assert gaussian_w2(m, a @ a.T, n, b @ b.T) == pytest.approx(float(expected), rel=1e-6)


def test_gaussians_against_what_is_known() -> None:
    assert gaussian_w2([0.0], [[4.0]], [3.0], [[25.0]]) == pytest.approx(np.hypot(3, 3))
    flat = np.diag([1.0, 0.0])  # a singular covariance is allowed
    assert gaussian_w2([0, 0], flat, [0, 0], flat) == pytest.approx(0, abs=1e-7)
    assert gaussian_w2([0, 0], flat, [0, 0], np.diag([0.0, 1.0])) == pytest.approx(np.sqrt(2))


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 2.0]))
def test_a_metric(seed: int, n: int, m: int, p: float) -> None:
    x, y = clouds(seed, n, m)
    z = np.random.default_rng(seed + 1).standard_normal((5, 3))
    far = wasserstein(x, y, p=p)
    assert far == pytest.approx(wasserstein(y, x, p=p))
    assert far <= wasserstein(x, z, p=p) + wasserstein(z, y, p=p) + 1e-9
    assert wasserstein(x, x[::-1], p=p) == pytest.approx(0, abs=1e-6)
    assert wasserstein(x, x + np.array([3, 4, 0]), p=p) == pytest.approx(5, rel=1e-6)
    assert sliced_wasserstein(x, y, 20, p) <= far + 1e-9
    np.testing.assert_allclose(
        wasserstein_1d(x[:, :1], y[:, :1], p)[0], wasserstein(x[:, :1], y[:, :1], p=p), atol=1e-6
    )


def test_bad_input() -> None:
    x, y = clouds(0)
    for call in (
        lambda: wasserstein(x, y[:, :2]),
        lambda: wasserstein(x, np.zeros((0, 3))),
        lambda: wasserstein(x, np.full_like(y, np.nan)),
        lambda: wasserstein(x, y, p=0.5),
        lambda: wasserstein(x, y, np.ones(30)),
        lambda: wasserstein(x, y, np.ones(3) / 3),
        lambda: sliced_wasserstein(x, y, 0),
        lambda: gaussian_w2([0, 0], np.eye(3), [0, 0], np.eye(2)),
        lambda: gaussian_w2([0, 0], [[1, 2], [0, 1]], [0, 0], np.eye(2)),
        lambda: gaussian_w2([0, 0], -np.eye(2), [0, 0], np.eye(2)),
    ):
        with pytest.raises(BadInput):
            call()


def test_without_scipy_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    x, y = clouds(0)
    for count in (20, 30):
        with pytest.raises(MissingExtra, match=r"ondevice-ml\[fit\]"):
            wasserstein(x[:count], y)
    assert sliced_wasserstein(x, y) > 0
