"""Optimal transport: how far one cloud of points is from another.

Knows points and weights. Knows nothing of what the points stand for.

Source: Peyré and Cuturi, "Computational Optimal Transport" (2019).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra

Array = npt.NDArray[np.float64]


def wasserstein(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_weights: npt.ArrayLike | None = None,
    y_weights: npt.ArrayLike | None = None,
    p: float = 2.0,
) -> float:
    """Exact p-Wasserstein distance between two weighted clouds: (sum plan * |x - y|^p)^(1/p), eq. 2.3 and 2.18.

    x: (n, d). y: (m, d). weights: (n,), (m,), not negative, summing to 1; equal where left out.
    Raises BadInput for NaN, other shapes and weights that do not sum to 1; MissingExtra without SciPy.
    """
    plan, cost = optimal_plan(x, y, x_weights, y_weights, p)
    return float((plan * cost).sum() ** (1 / p))


def optimal_plan(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    x_weights: npt.ArrayLike | None = None,
    y_weights: npt.ArrayLike | None = None,
    p: float = 2.0,
) -> tuple[Array, Array]:
    """The cheapest plan and the costs |x - y|^p, both (n, m). Arguments and errors as for `wasserstein`.

    As many points with equal weights on both sides are an assignment problem; anything else is the linear
    programme of eq. 2.11 with n * m variables: a few hundred points a side take seconds.
    """
    a, b = _clouds(x, y)
    if not (np.isfinite(p) and p >= 1):
        raise BadInput(f"p must be 1 or more, not {p}")
    mass_a, mass_b = _weights(x_weights, len(a)), _weights(y_weights, len(b))
    cost = distances(a, b) ** p
    if len(a) == len(b) and np.ptp(mass_a) == 0 and np.ptp(mass_b) == 0:
        return _assigned(cost), cost
    return _programme(cost, mass_a, mass_b), cost


def wasserstein_1d(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    p: float = 2.0,
) -> Array:
    """p-Wasserstein distance between numbers, column by column, by sorting (eq. 2.30): (columns,).

    x: (n, columns), y: (m, columns), equal weights; n and m may differ.
    """
    a, b = _clouds(x, y)
    if not (np.isfinite(p) and p >= 1):
        raise BadInput(f"p must be 1 or more, not {p}")
    a, b = np.sort(a, axis=0), np.sort(b, axis=0)
    n, m = len(a), len(b)
    # The quantile functions are constant between multiples of 1/n and of 1/m; in integers, in units of 1/(n m).
    edges = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    step = np.diff(edges)[:, None] / (n * m)
    gaps = np.abs(a[edges[:-1] // m] - b[edges[:-1] // n]) ** p
    return np.asarray((gaps * step).sum(axis=0) ** (1 / p))


def sliced_wasserstein(
    x: npt.ArrayLike, y: npt.ArrayLike, projections: int = 100, p: float = 2.0, *, seed: int = 0
) -> float:
    """Sliced p-Wasserstein distance: `wasserstein_1d` along random directions, (mean of W^p)^(1/p) (eq. 10.9).

    x: (n, d). y: (m, d). projections: how many directions; the same seed draws the same ones.
    """
    a, b = _clouds(x, y)
    if projections < 1:
        raise BadInput(f"at least one projection is needed, not {projections}")
    directions = np.random.default_rng(seed).standard_normal((a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    return float((wasserstein_1d(a @ directions, b @ directions, p) ** p).mean() ** (1 / p))


def gaussian_w2(
    mean_x: npt.ArrayLike, covariance_x: npt.ArrayLike, mean_y: npt.ArrayLike, covariance_y: npt.ArrayLike
) -> float:
    """2-Wasserstein distance between two Gaussians in closed form (eq. 2.41, 2.42; Dowson and Landau 1982).

    means: (d,). covariances: (d, d), symmetric, not negative. Raises BadInput otherwise.
    """
    m, n = np.asarray(mean_x, np.float64), np.asarray(mean_y, np.float64)
    a, b = np.asarray(covariance_x, np.float64), np.asarray(covariance_y, np.float64)
    if m.ndim != 1 or m.shape != n.shape or {a.shape, b.shape} != {(len(m), len(m))}:
        raise BadInput(
            f"means (d,) and covariances (d, d) are needed, not {m.shape}, {n.shape}, {a.shape}, {b.shape}"
        )
    root = _root(a)
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of B^1/2 A^1/2: no square root of a small number
    shared = np.linalg.svd(_root(b) @ root, compute_uv=False).sum()
    squared = ((m - n) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * shared
    return float(np.sqrt(max(squared, 0.0)))


def distances(x: Array, y: Array) -> Array:
    """Euclidean distance of every pair, (n, m)."""
    squared = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def _assigned(cost: Array) -> Array:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise MissingExtra("scipy", "fit", "to find an optimal transport plan") from error
    plan = np.zeros_like(cost)
    plan[linear_sum_assignment(cost)] = 1 / len(cost)
    return plan


def _programme(cost: Array, mass_a: Array, mass_b: Array) -> Array:
    try:
        from scipy.optimize import linprog
        from scipy.sparse import eye_array, kron, vstack
    except ImportError as error:
        raise MissingExtra("scipy", "fit", "to find an optimal transport plan") from error
    n, m = cost.shape
    sums = vstack([kron(eye_array(n), np.ones((1, m))), kron(np.ones((1, n)), eye_array(m))])
    # the last row follows from the others; leaving it out spares the solver a contradiction by rounding
    found = linprog(
        cost.ravel(), A_eq=sums.tocsr()[:-1], b_eq=np.concatenate([mass_a, mass_b])[:-1], method="highs"
    )
    if found.x is None:
        raise BadInput(f"the transport problem has no solution: {found.message}")
    return np.asarray(found.x, np.float64).reshape(n, m)


def _clouds(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Array, Array]:
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not a.size or not b.size:
        raise BadInput(f"points must be (n, d) and (m, d) with one d, and some, not {a.shape} and {b.shape}")
    if not np.isfinite(a).all() or not np.isfinite(b).all():
        raise BadInput("points must be finite")
    return a, b


def _weights(weights: npt.ArrayLike | None, count: int) -> Array:
    if weights is None:
        return np.full(count, 1 / count)
    mass = np.asarray(weights, np.float64)
    if mass.shape != (count,) or not (mass >= 0).all() or abs(mass.sum() - 1) > 1e-6:
        raise BadInput(
            f"{count} weights are needed, not negative, summing to 1, not {mass.shape}, {mass.sum():g}"
        )
    return np.asarray(mass / mass.sum())


def _root(covariance: Array) -> Array:
    if not np.isfinite(covariance).all() or not np.allclose(covariance, covariance.T, rtol=1e-5, atol=1e-8):
        raise BadInput("a covariance must be finite and symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -1e-6 * max(values[-1], 1e-12):
        raise BadInput(f"a covariance has the negative eigenvalue {values[0]:g}")
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
