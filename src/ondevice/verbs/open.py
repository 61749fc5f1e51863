"""open: an artifact on disk becomes a session that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ondevice.artifact import Artifact
from ondevice.backends import open_session

if TYPE_CHECKING:
    from ondevice.backends.session import Session


def open(
    artifact: str | Path, backend: str = "native", *, threads: int | None = None, verify: bool = False
) -> Session:
    """A session on an artifact.

    backend: "native" (needs nothing but the base install), "torch", "onnxruntime" or "mlx".
    threads: all processors unless told otherwise. verify: check every tensor's checksum now instead of when
    it is first read. Raises BadArtifact for a folder that is damaged or no artifact.
    """
    opened = Artifact(artifact)
    if verify:
        opened.verify()
    return open_session(opened, backend, threads=threads)
