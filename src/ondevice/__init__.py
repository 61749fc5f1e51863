"""Fit machine-learning models to devices.

Every verb of the command line is a function here of the same name; each is imported on first use,
so that `import ondevice` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ondevice.verbs.open import open

__version__ = "0.1.0"

_HOME = {
    "open": "ondevice.verbs.open",
}

__all__ = ["__version__", "open"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'ondevice' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
