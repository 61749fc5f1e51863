"""How many bits a token needs of each expert that it uses, as a small router says.

Knows the router's rule: a linear layer an expert, from the token to a score a width. Knows nothing of planes or where
they come from. `train.bits` teaches one.

Source: the D2MoE paper, dual routing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.runtime.projection import Projection, Tensors, read_projection

Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]


class BitRouter:
    """scores: rows = experts * widths. widths: how many. quality: is added to the score of a width for every bit that
    it has more than the lowest: 0 as it was taught, above it runs at more bits, below at fewer; it may change at any
    time."""

    def __init__(self, scores: Projection, experts: int, widths: int) -> None:
        if scores.rows != experts * widths:
            raise BadArtifact(
                f"the bit router gives {scores.rows} scores, {experts} experts of {widths} widths take "
                f"{experts * widths}: it was taught for other widths; teach one for these"
            )
        self._scores, self._experts, self._widths = scores, experts, widths
        self._quality = 0.0

    @property
    def quality(self) -> float:
        return self._quality

    @quality.setter
    def quality(self, value: float) -> None:
        if not np.isfinite(value):
            raise BadInput(f"quality is a finite number, 0 for as it was taught, not {value}")
        self._quality = float(value)

    def steps(self, kernels: Kernels, x: Floats, chosen: npt.NDArray[np.int64]) -> Steps:
        """For each token and each expert that it uses, bits beyond the lowest width; (tokens, used)."""
        scores = self._scores.apply(kernels, x).reshape(len(x), self._experts, self._widths)
        of_chosen = np.take_along_axis(scores, chosen[:, :, None], axis=1)
        lean = np.float32(self._quality) * np.arange(self._widths, dtype=np.float32)
        steps: Steps = np.argmax(of_chosen + lean, axis=2)
        return steps


def read_bit_router(tensors: Tensors, name: str, experts: int, widths: int) -> BitRouter | None:
    """The router of a layer's feed-forward part; None where there is none, and experts run at all their bits."""
    if f"{name}.bit_router.weight" not in tensors:
        return None
    return BitRouter(read_projection(tensors, f"{name}.bit_router"), experts, widths)
