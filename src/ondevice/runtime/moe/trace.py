"""What routers chose, token by token.

Knows a decoder's mixtures, to which it listens. Knows nothing of why, nor of what becomes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.measure.quality.text import log_probabilities
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.moe.experts import Experts
from ondevice.runtime.weights.eviction import Unit

Choices = npt.NDArray[np.int64]


def mixtures(decoder: Decoder) -> list[Experts]:
    """The layers of experts, in order. Raises BadInput where all layers are dense."""
    found = [block.feed for block in decoder.blocks if isinstance(block.feed, Experts)]
    if not found:
        raise BadInput("this model is dense: it has no router")
    return found


class RouterTrace:
    """Listens to a decoder from now on. layers: numbers of those that have experts. Raises BadInput for a dense one."""

    def __init__(self, decoder: Decoder) -> None:
        found = mixtures(decoder)
        self.layers = [each.layer for each in found]
        self._chosen: dict[int, list[Choices]] = {layer: [] for layer in self.layers}
        for each in found:
            each.listeners.append(self._listen)

    @property
    def choices(self) -> Choices:
        """(tokens, layers, used): the tokens in the order in which they were read, the experts likeliest first."""
        return np.stack([np.concatenate(self._chosen[layer]) for layer in self.layers], axis=1)

    def _listen(self, layer: int, chosen: Choices) -> None:
        self._chosen[layer].append(chosen.copy())


def uses(choices: Choices, layers: Sequence[int]) -> Iterator[list[Unit]]:
    """The units that each layer uses, token by token, as a cache is asked for them."""
    for token in choices:
        for layer, chosen in zip(layers, token, strict=True):
            yield [(layer, int(number)) for number in np.unique(chosen)]


def listen(decoder: Decoder, windows: Sequence[Sequence[int]]) -> tuple[Choices, npt.NDArray[np.float64]]:
    """What routers choose in texts, each read at once, and the logarithm of the probability of each token after its
    text's first."""
    trace, found = RouterTrace(decoder), []
    for window in windows:
        sequence = decoder.cache.sequence()
        [logits] = decoder.step([(sequence, window)], every=True)
        sequence.free()
        found.append(log_probabilities(logits[:-1], window[1:]))
    return trace.choices, np.concatenate(found)
