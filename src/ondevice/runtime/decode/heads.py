"""Heads that guess: small layers on a model's last state, each for a token further ahead.

Knows states, the heads' weights and how often each rank of each was right. Knows nothing of how guesses are checked.
The model's own matrix makes logits of what a head gives, so that a head is one square layer and little to keep.

Source: Cai et al. 2024, "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads", eq. 1; the
matrix is shared here, there each head has its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Linear, Matrix
from ondevice.runtime.decode.speculative import TreePace
from ondevice.runtime.decode.tree import Tree
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.projection import Tensors, find, read_vector

Floats = npt.NDArray[np.float32]
FAMILY = "medusa"


@dataclass(frozen=True)
class Heads:
    """layers: of each head, hidden x hidden, the next token but one first. rates: (heads, ranks), how often the
    candidate of a rank was right where those before it were, measured on texts that were not learned from."""

    layers: tuple[Linear, ...]
    rates: npt.NDArray[np.float64]

    @classmethod
    def read(cls, tensors: Tensors, config: Mapping[str, Any], hidden: int) -> Heads:
        """Of a folder of the zoo, for a model whose states are so wide.

        Raises BadInput for heads of another width, BadArtifact where a tensor is missing or of another shape.
        """
        if config.get("model_type") != FAMILY:
            raise BadInput(f"this is a {config.get('model_type')!r}, no set of heads")
        if config.get("hidden_size") != hidden:
            raise BadInput(
                f"these heads read states of {config.get('hidden_size')} values, the model's have {hidden}; "
                "take heads that were trained on this model"
            )
        layers = []
        for number in range(int(config["heads"])):
            weights = np.ascontiguousarray(find(tensors, f"heads.{number}.weight").to_dense(), np.float16)
            if weights.shape != (hidden, hidden):
                raise BadArtifact(f"head {number} is {weights.shape}, not {(hidden, hidden)}")
            bias = read_vector(tensors, f"heads.{number}.bias", hidden)
            layers.append(Linear((Matrix.dense(weights),), (bias,)))
        rates = find(tensors, "rates").to_dense().astype(np.float64)
        if rates.ndim != 2 or len(rates) != len(layers) or not 0 <= rates.min() <= rates.max() <= 1:
            raise BadArtifact(f"rates of acceptance are ({len(layers)}, ranks) from 0 to 1")
        return cls(tuple(layers), rates)

    def first(self, count: int) -> Heads:
        """Only those that look ahead least; the deep ones are right least often."""
        return Heads(self.layers[:count], self.rates[:count])

    @property
    def nbytes(self) -> int:
        """Of the weights."""
        return sum(layer.columns * (layer.rows * 2 + 4) for layer in self.layers)


class HeadsDraft:
    """Trees of what heads on a model's last state take for likely. pace: decides on the shape."""

    def __init__(self, heads: Heads, decoder: Decoder, pace: TreePace) -> None:
        if decoder.shape.hidden != heads.layers[0].columns:
            raise BadInput(
                f"heads of {heads.layers[0].columns} values do not fit states of {decoder.shape.hidden}"
            )
        self.heads, self.decoder, self.pace = heads, decoder, pace

    def begin(self) -> _Seer:
        return _Seer(self)


class _Seer:
    def __init__(self, draft: HeadsDraft) -> None:
        self._draft, self._state = draft, np.zeros(0, np.float32)

    def see(self, state: Floats) -> None:
        self._state = state.copy()  # and not the states of the whole step with it

    def guess(self, tokens: Sequence[int], most: int) -> Tree:
        shape = self._draft.pace.shape(most)
        if not self._state.size or not len(shape):
            return Tree.chain([])
        decoder, widths = self._draft.decoder, shape.widths()
        state = np.ascontiguousarray(self._state[None])
        layers = self._draft.heads.layers[: shape.depth]
        ahead = [state + _silu(decoder.kernels.linear(state, layer)) for layer in layers]
        logits = decoder.logits(np.concatenate(ahead))
        return shape.filled([_likeliest(row, width) for row, width in zip(logits, widths, strict=True)])

    def close(self) -> None:
        self._state = np.zeros(0, np.float32)


def _likeliest(logits: Floats, count: int) -> list[int]:
    """Tokens, the likeliest first; of equals the lower number."""
    among = np.argpartition(-logits, count - 1)[:count]
    return [int(token) for token in among[np.lexsort((among, -logits[among]))]]


def _silu(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)), np.float32)
