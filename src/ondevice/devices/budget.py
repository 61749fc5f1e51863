"""A budget: hard limits and a floor on quality, as numbers or as people write them ("16MB", "40ms", "2J").

Knows units. Knows nothing of plans or of how a limit is checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ondevice.errors import BadInput

_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {_letter: 1000**_power, f"{_letter}b": 1000**_power, f"{_letter}ib": 1024**_power}
_SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}
_JOULES = {"": 1.0, "J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "kJ": 1e3, "Wh": 3600.0, "mWh": 3.6}
_NUMBER = re.compile(r"\s*([0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*([A-Za-zµ]*)\s*")


@dataclass(frozen=True, init=False)
class Budget:
    """What a fitted model may cost and how good it must stay. A field that is None is no limit.

    storage, memory: bytes. latency: seconds. energy: joules an inference. bandwidth: bytes sent an inference.
    quality: the least acceptable quality, 0 to 1 (mean cosine to the original for embeddings, agreement with
    it for classification, its perplexity over the fitted model's for language). MB is 10^6 bytes, MiB 2^20.
    Raises BadInput for what is no positive amount.
    """

    storage: int | None
    memory: int | None
    latency: float | None
    energy: float | None
    bandwidth: int | None
    quality: float | None

    def __init__(
        self,
        storage: str | float | None = None,
        memory: str | float | None = None,
        latency: str | float | None = None,
        energy: str | float | None = None,
        bandwidth: str | float | None = None,
        quality: float | None = None,
    ) -> None:
        if quality is not None and (
            isinstance(quality, bool) or not isinstance(quality, (int, float)) or not 0 < quality <= 1
        ):
            raise BadInput(f"quality must be a number above 0 and at most 1, not {quality!r}")
        for name, value in {
            "storage": None if storage is None else parse_bytes(storage, "storage"),
            "memory": None if memory is None else parse_bytes(memory, "memory"),
            "latency": None if latency is None else parse_seconds(latency, "latency"),
            "energy": None if energy is None else parse_joules(energy, "energy"),
            "bandwidth": None if bandwidth is None else parse_bytes(bandwidth, "bandwidth"),
            "quality": quality,
        }.items():
            object.__setattr__(self, name, value)


def parse_bytes(amount: str | float, what: str = "size") -> int:
    """Bytes of 16_000_000, "16MB" (10^6), "16MiB" (2^20), "1.5GB", "300KB"; letters in either case."""
    text = amount.lower() if isinstance(amount, str) else amount
    size = round(_parse(text, _BYTES, what, "bytes, KB, MB, GB, KiB, MiB or GiB, as in 16MB", amount))
    if size < 1:
        raise BadInput(f"{what} {amount!r} is less than one byte")
    return size


def parse_seconds(amount: str | float, what: str = "time") -> float:
    """Seconds of 0.04, "40ms", "2s", "250us", "1min"."""
    return _parse(amount, _SECONDS, what, "s, ms, us, ns or min, as in 40ms", amount)


def parse_share(amount: str | float, what: str = "share") -> float:
    """From 0 to 1, of 0.2 or "20%"."""
    text = str(amount).strip()
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise BadInput(f"{what} {amount!r} is no share; write one from 0% to 100%, as in 20%")
    return value


def parse_joules(amount: str | float, what: str = "energy") -> float:
    """Joules of 2, "2J", "150mJ", "0.1mWh"."""
    return _parse(amount, _JOULES, what, "J, mJ, uJ, kJ, Wh or mWh, as in 150mJ", amount)


def _parse(
    amount: str | float, units: Mapping[str, float], what: str, spelling: str, original: str | float
) -> float:
    value: float = math.nan
    if isinstance(amount, str):
        match = _NUMBER.fullmatch(amount)
        if match and match[2] in units:
            value = float(match[1]) * units[match[2]]
    elif isinstance(amount, (int, float)) and not isinstance(amount, bool):
        value = float(amount)
    if not math.isfinite(value) or value <= 0:
        raise BadInput(f"{what} {original!r} is not a positive amount; write a number and {spelling}")
    return value
