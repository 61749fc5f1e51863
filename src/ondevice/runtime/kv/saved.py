"""A text's key-value cache in a file, so that another process need not read the text again.

Knows pages, tokens and the file. Knows nothing of models but a key that tells them apart: a file of another one, or one
that is damaged, is passed over with a warning.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.runtime.kv.paged import CachedSequence, CacheFull, PagedCache

_FORM = "ondevice prompt cache 1"


def save(path: str | Path, key: str, tokens: Sequence[int], sequence: CachedSequence) -> None:
    """Write what a sequence remembers. key: of the model. tokens: all that it holds. The file appears whole or not at
    all."""
    from safetensors.numpy import save as to_bytes

    path, cache = Path(path), sequence._cache
    arrays: dict[str, npt.NDArray[Any]] = {"tokens": np.asarray(tokens, np.int64)}
    arrays |= {f"layer.{number}": layer.pool[sequence._pages] for number, layer in enumerate(cache.layers)}
    fields = {"form": _FORM, "key": _key(key, cache), "checksum": _checksum(arrays)}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(to_bytes(arrays, fields))
        os.replace(fresh, path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise


def load(path: str | Path, key: str, cache: PagedCache) -> tuple[tuple[int, ...], CachedSequence] | None:
    """The tokens and the sequence of a file that `save` wrote; None, with a warning that says why, where it cannot be
    used, and None where there is none."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            fields = file.metadata() or {}
            if fields.get("form") != _FORM or fields.get("key") != _key(key, cache):
                _pass_over(path, "it is of another model or another form")
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — not a mapping
    except (OSError, SafetensorError, ValueError) as problem:
        _pass_over(path, f"it cannot be read: {problem}")
        return None
    if fields.get("checksum") != _checksum(arrays):
        _pass_over(path, "it is damaged")
        return None
    tokens = tuple(arrays["tokens"].tolist())
    sequence = cache.sequence()
    try:
        sequence.reserve(len(tokens))
    except CacheFull:
        _pass_over(path, f"its {len(tokens)} tokens do not fit into the cache")
        return None
    sequence.advance(len(tokens))
    for number, layer in enumerate(cache.layers):
        layer.pool[sequence._pages] = arrays[f"layer.{number}"]
    return tokens, sequence


def _key(key: str, cache: PagedCache) -> str:
    layers = [[layer.heads, layer.head_size, layer.dtype] for layer in cache.layers]
    return hashlib.sha256(json.dumps([key, layers]).encode()).hexdigest()


def _checksum(arrays: dict[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _pass_over(path: Path, why: str) -> None:
    warnings.warn(f"the prompt cache {path} is not used: {why}", stacklevel=3)
