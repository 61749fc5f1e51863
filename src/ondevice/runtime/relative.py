"""Biases by the distance of two tokens, as T5 adds them to the scores of attention.

Knows distances and buckets. Knows nothing of attention or of what the biases are learned for.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.kernels import PAGE

Floats = npt.NDArray[np.float32]


def distance_bias(table: Floats, context: int, most: int, *, ahead: bool) -> Floats:
    """The bias of every distance within a context, float32 (heads, 2 context + 64).

    table: (buckets, heads). most: the distance from which on all share a bucket. ahead: whether a token looks at those
    after it too, which then have half of the buckets. A token that looks at one `d` places after it (before it: less
    than 0) finds its bias at context + d; the last 64 are there because kernels read whole pages.
    """
    distances, buckets = np.arange(-context, context + PAGE), len(table)
    near = np.minimum(np.abs(distances), most)
    if ahead:
        half = buckets // 2
        found = _buckets(near, half, most) + np.where(distances > 0, half, 0)
    else:
        found = _buckets(np.where(distances > 0, 0, near), buckets, most)
    return np.ascontiguousarray(table[found].T)


def _buckets(distances: npt.NDArray[Any], buckets: int, most: int) -> npt.NDArray[np.int64]:
    """The bucket of each distance >= 0: near ones have their own, far ones share ever wider ones.

    In float32, as the models were trained: at a boundary a bucket depends on it.
    """
    exact = buckets // 2
    ratio = np.log(np.maximum(distances, 1).astype(np.float32) / np.float32(exact))
    far = exact + (ratio / np.float32(math.log(most / exact)) * np.float32(buckets - exact)).astype(np.int64)
    return np.where(distances < exact, distances, np.minimum(far, buckets - 1)).astype(np.int64)
