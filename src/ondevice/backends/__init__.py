"""Backends: one file each, artifact -> Session.

Knows their names. Each is imported when it is asked for, so that a small board needs none but `native`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from ondevice.errors import BadInput

if TYPE_CHECKING:
    from ondevice.artifact import Artifact
    from ondevice.backends.session import Session

# name -> (module, function that opens an artifact)
BACKENDS = {
    "native": "ondevice.backends.native",
    "torch": "ondevice.backends.torch",
    "onnxruntime": "ondevice.backends.onnxruntime",
    "mlx": "ondevice.backends.mlx",
}


class Opener(Protocol):
    def __call__(self, artifact: Artifact, *, threads: int | None) -> Session: ...


def open_session(artifact: Artifact, backend: str = "native", *, threads: int | None = None) -> Session:
    """Open an artifact on a backend. threads: None for all cores. Raises BadInput for an unknown name."""
    if backend not in BACKENDS:
        raise BadInput(f"no backend {backend!r}; there are: {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BadInput(f"threads must be at least 1, not {threads}")
    opener: Opener = import_module(BACKENDS[backend]).open_artifact
    return opener(artifact, threads=threads)
