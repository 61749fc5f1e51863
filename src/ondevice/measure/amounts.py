"""Numbers as people read them.

Knows units. Knows nothing of what is counted.
"""

from __future__ import annotations

_SCALES = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "bytes")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")),
}


def amount(value: float, unit: str) -> str:
    """A number to four digits with the prefix that fits: "2.41 ms", "15.91 MB", "0.9957"."""
    if unit not in _SCALES:
        return f"{value:.4g} {unit}".rstrip()
    scales = _SCALES[unit]
    scale, name = next(((s, n) for s, n in scales if abs(value) >= s), scales[-1])
    return f"{value / scale:.4g} {name}"
