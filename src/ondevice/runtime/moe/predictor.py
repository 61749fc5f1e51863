"""Which experts a layer will use, told by those that the layers before it used.

Knows paths: the sets of experts of one layer after another, from a token's last layer to the next token's first. Knows
nothing of weights. Layer by layer experts are used alike (training sees to it), but few paths make up most of the use.

Source: Yi et al. 2023, "EdgeMoE": N[layer, expert | experts of the two layers before], P = (N + eps) / sum.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.runtime.moe.trace import Choices
from ondevice.runtime.weights.eviction import Unit
from ondevice.runtime.weights.experts import ExpertCache

Key = tuple[int, ...]
Likely = dict[Unit, float]
_LEAST = 8  # a path seen less often tells nothing; a shorter one is asked
_EPSILON = 0.01
_BACK = 2  # layers that a path goes back


class PathPredictor:
    """Counts of paths, for `experts` a layer in the layers of those numbers, `used` a token."""

    def __init__(self, layers: Sequence[int], experts: int, used: int) -> None:
        if not layers or not 1 <= used <= experts:
            raise BadInput(f"{used} of {experts} experts in {len(layers)} layers cannot be predicted")
        self.layers, self.experts, self.used = list(layers), experts, used
        self._counts: dict[tuple[int, Key], npt.NDArray[np.int64]] = {}
        self._seen: dict[tuple[int, Key], int] = {}
        self._told: dict[tuple[int, Key], Likely] = {}  # of paths, until they are counted again

    def learn(self, choices: Choices) -> None:
        """Count a text's paths. choices: (tokens, layers, used), see `trace.RouterTrace`."""
        path: list[Choices] = []
        for token in choices:
            for place, chosen in enumerate(token):
                self.count(place, path, chosen)
                path = [*path[1 - _BACK :], chosen]

    def count(self, place: int, path: Sequence[Choices], chosen: Choices) -> None:
        """Count one token's choice of a layer. place: of the layer in `layers`. path: the choices of the layers before,
        nearest last."""
        for key in self._keys(path):
            if (place, key) not in self._counts:
                self._counts[place, key] = np.zeros(self.experts, np.int64)
                self._seen[place, key] = 0
            self._counts[place, key][chosen] += 1
            self._seen[place, key] += 1
            self._told.pop((place, key), None)

    def probabilities(self, place: int, path: Sequence[Choices]) -> npt.NDArray[np.float64]:
        """That a token uses each expert of a layer, (experts,): by the two layers before it where that path was seen
        often enough, else by one, else by frequency."""
        key = self._known(place, path)
        if key is None:
            return np.full(self.experts, self.used / self.experts)
        counts = self._counts[place, key] + _EPSILON
        return np.asarray(counts * (self.used / counts.sum()))

    def likely(self, place: int, path: Sequence[Choices]) -> Likely:
        """The experts of a layer that are likelier than by chance, and how likely."""
        key = self._known(place, path)
        if key is None:
            return {}
        if (place, key) not in self._told:
            told = self.probabilities(place, path)
            found = np.flatnonzero(told > self.used / self.experts)
            layer = self.layers[place]
            self._told[place, key] = {(layer, number): float(told[number]) for number in found.tolist()}
        return self._told[place, key]

    def recall(self, choices: Choices, *, paths: bool = True) -> float:
        """Share of what a text's tokens chose that was among the `used` likeliest. paths: False for frequency only."""
        path: list[Choices] = []
        hits = total = 0
        for token in choices:
            for place, chosen in enumerate(token):
                told = self.probabilities(place, path if paths else ())
                likeliest = np.argsort(-told, kind="stable")[: self.used]
                hits, total = hits + len(np.intersect1d(likeliest, chosen)), total + len(chosen)
                path = [*path[1 - _BACK :], chosen]
        return hits / total

    def save(self, path: str | Path) -> None:
        """As JSON."""
        rows = [[place, list(key), self._seen[place, key], counts.tolist()]
                for (place, key), counts in self._counts.items()]  # fmt: skip
        document = {"layers": self.layers, "experts": self.experts, "used": self.used, "paths": rows}
        Path(path).write_text(json.dumps(document))

    @classmethod
    def load(cls, path: str | Path, layers: Sequence[int], experts: int, used: int) -> PathPredictor:
        """What `save` wrote. Raises BadInput where it is damaged, or of a model with other layers or experts."""
        try:
            document: dict[str, Any] = json.loads(Path(path).read_text())
            found = document["layers"], document["experts"], document["used"]
            predictor = cls(layers, experts, used)
            for place, key, seen, counts in document["paths"]:
                predictor._seen[int(place), tuple(key)] = int(seen)
                predictor._counts[int(place), tuple(key)] = np.array(counts, np.int64).reshape(found[1])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise BadInput(f"{path} is not a profile of experts: {problem}; make it again") from problem
        if found != (list(layers), experts, used):
            raise BadInput(
                f"{path} is a profile of a model that uses {found[2]} of {found[1]} experts in {len(found[0])} layers; "
                f"this one uses {used} of {experts} in {len(layers)}"
            )
        return predictor

    def _known(self, place: int, path: Sequence[Choices]) -> Key | None:
        """The longest path that was seen often enough."""
        for key in self._keys(path):
            if self._seen.get((place, key), 0) >= (_LEAST if key else 1):
                return key
        return None

    def _keys(self, path: Sequence[Choices]) -> list[Key]:
        """The path as sets, the longest first, none last. A mark stands between layers."""
        keys: list[Key] = [()]
        for chosen in reversed(path[-_BACK:]):
            keys.append((*sorted(chosen.tolist()), -1, *keys[-1]))
        return keys[::-1]


class Foresight:
    """Tells a cache which experts the next layer is likely to use, as soon as a layer's router has spoken; a listener
    of all mixtures of a decoder. learns: also from what it sees."""

    def __init__(self, cache: ExpertCache, predictor: PathPredictor, *, learns: bool = True) -> None:
        self._cache, self._predictor, self._learns = cache, predictor, learns
        self._places = {layer: place for place, layer in enumerate(predictor.layers)}
        self._path: list[Choices] = []  # of the last token that was read

    def __call__(self, layer: int, chosen: Choices) -> None:
        predictor, place = self._predictor, self._places[layer]
        if self._learns:
            predictor.count(place, self._path, chosen[-1])
        self._path = [*self._path[1 - _BACK :], chosen[-1]]
        self._cache.guess(predictor.likely((place + 1) % len(predictor.layers), self._path))
