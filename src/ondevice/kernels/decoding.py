"""The kernels of decoders: RMS normalisation, gated activation, rotary positions, attention over a paged cache.

Knows checked arrays; `ondevice.kernels.Kernels` offers these among its methods. Knows nothing of architectures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels import reference_decoding as reference
from ondevice.kernels.matrix import check, core
from ondevice.kernels.pages import CACHE_DTYPES, PAGE, Bias, LayerCache, Places

Floats = npt.NDArray[np.float32]


class Decoding:
    """Mixed into `Kernels`."""

    _core: Any

    def rms_norm(
        self,
        x: Floats,
        gamma: Floats,
        epsilon: float,
        *,
        update: Floats | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """RMS normalisation of x (rows, columns). update: is added to x first, in place. out may be x.

        Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4.
        """
        if x.ndim != 2:
            raise BadInput(f"x must have two axes, not shape {x.shape}")
        check("x", x, x.shape)
        check("gamma", gamma, x.shape[1:])
        if update is not None:
            check("update", update, x.shape)
        out = np.empty_like(x) if out is None else out
        check("out", out, x.shape)
        if self._core is None:
            reference.rms_norm(x, update, gamma, epsilon, out)
        elif x.size:
            self._core.rms_norm(x, update, gamma, epsilon, out)
        return out

    def gated(self, x: Floats, activation: str, out: Floats | None = None) -> Floats:
        """activation(x[:, :n]) * x[:, n:], (rows, n), for x (rows, 2 n). Source: Shazeer 2020, eq. 6."""
        if x.ndim != 2 or x.shape[1] % 2 or not x.shape[1]:
            raise BadInput(f"x must be (rows, 2 n), not {x.shape}")
        check("x", x, x.shape)
        shape = (x.shape[0], x.shape[1] // 2)
        out = np.empty(shape, np.float32) if out is None else out
        check("out", out, shape)
        kind = GATES.get(activation)
        if kind is None:
            raise BadInput(f"{activation!r} is not a gate's activation; choose from {', '.join(GATES)}")
        if self._core is None:
            reference.gated(x, activation, out)
        elif out.size:
            self._core.gated(x, kind, out)
        return out

    def remember(
        self,
        joint: Floats,
        heads: int,
        cache: LayerCache,
        places: Places,
        cosine: Floats,
        sine: Floats,
        *,
        query_gamma: Floats | None = None,
        key_gamma: Floats | None = None,
        epsilon: float = 1e-6,
    ) -> None:
        """Turn queries and keys by their positions, in place, and write keys and values to the cache.

        joint: (tokens, (heads + 2 * cache.heads) * head_size), queries, keys and values side by side.
        cosine, sine: (positions, n): the first 2 n values of a head turn, value i with value i + n.
        query_gamma, key_gamma: (head_size,), RMS normalisation of each head before it turns.

        Source: Su et al. 2021, "RoFormer", eq. 34.
        """
        self._check(joint, heads, cache, places)
        check("cosine", cosine, cosine.shape)
        check("sine", sine, cosine.shape)
        if cosine.ndim != 2 or not 1 <= cosine.shape[1] <= cache.head_size // 2:
            raise BadInput(f"cosine must be (positions, up to {cache.head_size // 2}), not {cosine.shape}")
        if places.positions.size and places.positions.max() >= len(cosine):
            raise BadInput(
                f"position {places.positions.max()} is beyond the {len(cosine)} that can be turned to"
            )
        for name, gamma in (("query_gamma", query_gamma), ("key_gamma", key_gamma)):
            if gamma is not None:
                check(name, gamma, (cache.head_size,))
        if self._core is None:
            reference.remember(joint, heads, cache, places, cosine, sine, query_gamma, key_gamma, epsilon)
        elif joint.size:
            self._core.remember(
                joint, heads, places.sequences, places.positions, *_native(cache), places.tables,
                query_gamma, key_gamma, epsilon, cosine, sine, *_slots(places),
            )  # fmt: skip

    def attend(
        self,
        joint: Floats,
        heads: int,
        cache: LayerCache,
        places: Places,
        scale: float,
        *,
        window: int = 0,
        bias: Bias | None = None,
        out: Floats | None = None,
    ) -> Floats:
        """Attention of each token to its sequence's cache up to its place, (tokens, heads * head_size).

        joint: as `remember` left it. window: only the last so many tokens; 0 for all. bias: is added to scaled scores.
        """
        self._check(joint, heads, cache, places)
        shape = (len(joint), heads * cache.head_size)
        out = np.empty(shape, np.float32) if out is None else out
        check("out", out, shape)
        if window < 0:
            raise BadInput(f"window must not be negative, not {window}")
        if bias is not None:
            bias.check(heads, places)
        if self._core is None:
            reference.attend(joint, heads, cache, places, scale, window, bias, out)
        elif out.size:
            self._core.attend(
                joint,
                heads,
                places.sequences,
                places.positions,
                *_native(cache),
                places.tables,
                window,
                scale,
                out,
                *((None, None) if bias is None else (bias.values, bias.starts)),
                *_slots(places),
            )
        return out

    def _check(self, joint: Floats, heads: int, cache: LayerCache, places: Places) -> None:
        if heads < 1 or heads % cache.heads:
            raise BadInput(f"{heads} heads do not share {cache.heads} key-value heads evenly")
        check("joint", joint, (len(joint), (heads + 2 * cache.heads) * cache.head_size))
        places.check(len(joint), cache)


GATES = {"gelu": 1, "gelu_tanh": 2, "relu": 3, "silu": 5}


def _slots(places: Places) -> tuple[Any, ...]:
    return () if places.slots is None else (places.slots,)


def _native(cache: LayerCache) -> tuple[Any, ...]:
    return cache.pool, CACHE_DTYPES.index(cache.dtype), cache.heads, cache.head_size


def move_tokens(
    caches: Sequence[LayerCache], slots: npt.NDArray[np.int32], to: npt.NDArray[np.int32]
) -> None:
    """What tokens left in slots (page * 64 + place in it) of every layer, as it is stored, to others.

    caches: of the same pages, heads and form. slots, to: int32 (tokens,). Raises BadInput for a slot that is none.
    """
    for name, array in (("slots", slots), ("to", to)):
        if array.dtype != np.int32 or array.shape != slots.shape or array.ndim != 1:
            raise BadInput(f"{name} must be int32, one a token, not {array.dtype} {array.shape}")
        if array.size and not 0 <= array.min() <= array.max() < min(len(each.pool) for each in caches) * PAGE:
            raise BadInput(f"{name} name a place outside the {len(caches[0].pool)} pages of the pool")
    if core is None:
        for cache in caches:
            cache.move(slots, to)
    elif slots.size:
        pools, rest = [cache.pool for cache in caches], _native(caches[0])[1:]
        core.move_tokens(pools, *rest, np.ascontiguousarray(slots), np.ascontiguousarray(to))
