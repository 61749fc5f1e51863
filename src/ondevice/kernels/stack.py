"""All layers of a decoder in one call: nothing waits for Python between the kernels.

Knows the order of the kernels in a pre-norm block with grouped queries and a gated feed-forward layer. Knows nothing of
checkpoints. The same kernels on the same numbers as when they are called one by one, so the same bits. Written because
what Python does between the kernels of a token took 2 of 25 ms on the shape of Llama-3.2-1B, and 3 of 18 on that of
Qwen3-0.6B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.kernels.decoding import GATES
from ondevice.kernels.matrix import Linear, check, core
from ondevice.kernels.pages import CACHE_DTYPES, LayerCache, Places

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """joint: queries, keys and values side by side. widen: gate and up side by side. query_gamma, key_gamma:
    (head_size,) or None. window: of sliding attention, 0 for none."""

    attention_gamma: Floats
    query_gamma: Floats | None
    key_gamma: Floats | None
    feed_gamma: Floats
    joint: Linear
    output: Linear
    widen: Linear
    narrow: Linear
    cache: LayerCache
    window: int


class Stack:
    """What `Kernels.stack` makes. heads: of queries. gate: its activation.

    Raises BadInput where the parts of a layer do not fit together.
    """

    def __init__(
        self, native: Any, layers: Sequence[Layer], *, hidden: int, heads: int, epsilon: float, gate: str
    ) -> None:
        cache = layers[0].cache
        self._core, self._caches, self.hidden = native, [layer.cache for layer in layers], hidden
        if heads % cache.heads or gate not in GATES:
            raise BadInput(f"{heads} heads do not share {cache.heads} evenly, or {gate!r} is no gate")
        self._native = core.Stack.make(
            hidden, heads, cache.heads, cache.head_size, CACHE_DTYPES.index(cache.dtype), epsilon, GATES[gate]
        )
        wide = heads * cache.head_size
        for layer in layers:
            for gamma in (layer.attention_gamma, layer.feed_gamma):
                check("gamma", gamma, (hidden,))
            for own in (layer.query_gamma, layer.key_gamma):
                if own is not None:
                    check("gamma of a head", own, (cache.head_size,))
            sizes = {
                "joint": (layer.joint, wide + 2 * cache.heads * cache.head_size, hidden),
                "output": (layer.output, hidden, wide),
                "widen": (layer.widen, 2 * layer.narrow.columns, hidden),
                "narrow": (layer.narrow, hidden, layer.narrow.columns),
            }
            for name, (linear, rows, columns) in sizes.items():
                if (linear.rows, linear.columns) != (rows, columns):
                    raise BadInput(
                        f"{name} is {linear.rows} x {linear.columns}, its layer needs {rows} x {columns}"
                    )
            if layer.cache.pool.shape[1:] != cache.pool.shape[1:] or layer.cache.dtype != cache.dtype:
                raise BadInput("all layers must keep their caches alike")
            self._native.add(
                self._core, layer.attention_gamma, layer.query_gamma, layer.key_gamma, layer.feed_gamma,
                layer.joint.native, layer.output.native, layer.widen.native, layer.narrow.native,
                layer.cache.pool, layer.window,
            )  # fmt: skip

    def run(self, states: Floats, places: Places, cosine: Floats, sine: Floats, scale: float) -> Floats:
        """What the last layer's feed-forward part gives, (tokens, hidden), to be added to states.

        states: (tokens, hidden), changed in place to what everything before that part leaves. cosine, sine and
        scale: as for `Kernels.remember` and `Kernels.attend`.
        """
        check("states", states, (len(states), self.hidden))
        for cache in self._caches:
            places.check(len(states), cache)
        check("cosine", cosine, cosine.shape)
        check("sine", sine, cosine.shape)
        size = self._caches[0].head_size
        if cosine.ndim != 2 or not 1 <= cosine.shape[1] <= size // 2:
            raise BadInput(f"cosine must be (positions, up to {size // 2}), not {cosine.shape}")
        if len(states) and places.positions.max() >= len(cosine):
            raise BadInput(
                f"position {places.positions.max()} is beyond the {len(cosine)} that can be turned to"
            )
        update = np.empty_like(states)
        if len(states):
            self._core.run_blocks(
                self._native, places.sequences, places.positions, places.tables, cosine, sine, scale, states,
                update, *(() if places.slots is None else (places.slots,)),
            )  # fmt: skip
        return update
