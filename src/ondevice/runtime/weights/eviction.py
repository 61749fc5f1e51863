"""Which experts a full buffer keeps: by recency, by use, by use and distance, or by the future as an oracle knows it.

Knows the order in which layers use their experts. Knows nothing of bytes, buffers or reads.

Source of the third: Yi et al. 2023, "EdgeMoE", whose cache weighs how often an expert is used and how far its layer is
from running again. The exact formula is not given; frequency / distance keeps both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import count as numbers

Unit = tuple[int, ...]  # (layer, expert), or (layer, expert, plane): what is read and kept as one
_DECAY = 0.03  # of a layer's frequencies with every use: they follow the text, over some thirty tokens
_NEVER = float("inf")


class Policy(ABC):
    """An order of keeping. weighs: whether `keep` is on the scale of a probability that the unit is used next, so that
    a guess may be weighed against what it would drive out."""

    weighs = False

    @abstractmethod
    def begin(self, units: Sequence[Unit]) -> None:
        """A layer is about to use these."""

    @abstractmethod
    def keep(self, unit: Unit) -> float:
        """The larger, the longer it is kept."""


class LeastRecent(Policy):
    """Drop what was used longest ago."""

    def __init__(self) -> None:
        self._clock, self._used = numbers(1), dict[Unit, int]()

    def begin(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self._used[unit] = next(self._clock)

    def keep(self, unit: Unit) -> float:
        return self._used.get(unit, 0)


class LeastFrequent(Policy):
    """Drop what was used least often."""

    def __init__(self) -> None:
        self._uses = dict[Unit, int]()

    def begin(self, units: Sequence[Unit]) -> None:
        for unit in units:
            self._uses[unit] = self._uses.get(unit, 0) + 1

    def keep(self, unit: Unit) -> float:
        return self._uses.get(unit, 0)


class FrequencyOverDistance(Policy):
    """Drop the smallest f / d: f, how often the layer's uses chose it of late; d, 1 to `layers`, how many layers run
    until its own runs again."""

    weighs = True

    def __init__(self, layers: int) -> None:
        self._layers, self._now = layers, 0
        self._uses = [0] * layers
        self._found = dict[Unit, tuple[float, int]]()  # frequency, and the layer's use that it is of

    def begin(self, units: Sequence[Unit]) -> None:
        if units:
            self._now = units[0][0]
            self._uses[self._now] += 1
            for unit in units:
                self._found[unit] = self._frequency(unit) + _DECAY, self._uses[self._now]

    def keep(self, unit: Unit) -> float:
        return self._frequency(unit) / ((unit[0] - self._now - 1) % self._layers + 1)

    def _frequency(self, unit: Unit) -> float:
        value, at = self._found.get(unit, (0.0, 0))
        return value * (1 - _DECAY) ** (self._uses[unit[0]] - at)


class Oracle(Policy):
    """Drop what is used again last, which no policy beats on equal sizes (Belady 1966): for reports, as it knows what
    will be used. trace: the units of each use of a layer, in order."""

    def __init__(self, trace: Iterable[Sequence[Unit]]) -> None:
        self._now, self._uses = 0, dict[Unit, list[int]]()
        for number, units in enumerate(trace, 1):
            for unit in units:
                self._uses.setdefault(unit, []).append(number)

    def begin(self, units: Sequence[Unit]) -> None:
        self._now += 1

    def keep(self, unit: Unit) -> float:
        uses = self._uses.get(unit, [])
        after = bisect_right(uses, self._now)
        return -uses[after] if after < len(uses) else -_NEVER


def misses(policy: Policy, uses: Iterable[Sequence[Unit]], room: int) -> int:
    """How often a unit is not there when it is used, with room for so many, all alike and nothing read ahead."""
    there: set[Unit] = set()
    count = 0
    for units in uses:
        policy.begin(units)
        for unit in units:
            if unit not in there:
                count += 1
                if len(there) >= room:
                    there.remove(min(there.difference(units) or there, key=policy.keep))
                there.add(unit)
    return count


def misses_by_policy(uses: Sequence[Sequence[Unit]], layers: int, room: int) -> dict[str, int]:
    """The same by every policy."""
    policies: dict[str, Policy] = {
        "lru": LeastRecent(), "lfu": LeastFrequent(), "frequency over distance": FrequencyOverDistance(layers),
        "oracle": Oracle(uses),
    }  # fmt: skip
    return {name: misses(policy, uses, room) for name, policy in policies.items()}
