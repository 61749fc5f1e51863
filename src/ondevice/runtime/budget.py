"""How much memory a decoder will take, worked out before it is loaded.

Knows sizes: of weights, of the cache, of one step. Knows nothing of files or tokenizers.
"""

from __future__ import annotations

import os
from pathlib import Path

from ondevice.measure.memory import own_peak


def resident_bytes() -> int:
    """What this process holds now; at its peak, where the system does not say."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return own_peak()
