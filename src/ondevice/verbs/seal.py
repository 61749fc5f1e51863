"""seal: an artifact whose weights are encrypted on storage, and plain only in the memory of who has the key."""

from __future__ import annotations

from pathlib import Path

from ondevice.artifact import Artifact, write


def seal(artifact: str | Path, key_file: str | Path, *, out: str | Path, overwrite: bool = False) -> Artifact:
    """Write a sealed copy of an artifact, whole or not at all.

    key_file: at least 32 random bytes; whoever runs the copy needs the same. The configuration, the tokenizer and the
    names and sizes of tensors stay readable, though no change to them goes unseen. The artifact itself is left alone.
    Raises BadInput for a key that is too short and an artifact that is sealed already, BadArtifact for a damaged one.
    """
    from ondevice.runtime.weights.encrypted import read_key
    from ondevice.runtime.weights.encrypted import seal as sealed

    return write(out, sealed(Artifact(artifact), read_key(key_file)), overwrite=overwrite)
