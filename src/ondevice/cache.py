"""The user's cache folder: where it is, how large, how to empty it.

Knows nothing of what is cached; each room names its own subfolder.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Where ondevice keeps what it can make again. Not created here.

    `ONDEVICE_CACHE` decides; else `XDG_CACHE_HOME/ondevice`; else the system's own place.
    """
    if chosen := os.environ.get("ONDEVICE_CACHE"):
        return Path(chosen).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ondevice"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ondevice"
    return Path.home() / ".cache" / "ondevice"


def cache_size() -> int:
    """Bytes of all files in the cache folder (0 where there is none)."""
    return sum(path.lstat().st_size for path in cache_folder().rglob("*") if not path.is_dir())


def clear_cache() -> int:
    """Remove the cache folder; the bytes it held."""
    size = cache_size()
    shutil.rmtree(cache_folder(), ignore_errors=True)
    return size
