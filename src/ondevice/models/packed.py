"""Finished models of the zoo at 8 bits a weight, half of what float16 takes, to ship what is too large otherwise.

Knows folders of the zoo (`ondevice.models.zoo`) and matrices. Whoever opens a packed folder gets an ordinary one, made
once in the user's cache: every reader of Hugging Face folders reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.atomic import writing
from ondevice.cache import cache_folder
from ondevice.errors import BadArtifact, BadInput

_FILE = "model.int8.safetensors"
_SCALES = ".scales"


def pack(folder: Path, out: Path, notes: Sequence[str] = ()) -> None:
    """A copy of a folder of the zoo, each matrix as int8 rows with a float16 scale each; vectors stay as they are.

    notes: added to its record. Raises BadInput where `out` exists.
    """
    from safetensors.numpy import load_file, save

    if out.exists():
        raise BadInput(f"{out} exists; choose another name")
    tensors: dict[str, npt.NDArray[Any]] = {}
    for name, values in load_file(folder / "model.safetensors").items():
        if values.ndim < 2:
            tensors[name] = values
            continue
        rows = values.astype(np.float32).reshape(len(values), -1)
        scales = (np.abs(rows).max(axis=1) / 127).astype(np.float16)
        divisors = np.maximum(scales.astype(np.float32), np.finfo(np.float16).tiny)[:, None]
        codes = np.clip(np.rint(rows / divisors), -127, 127).astype(np.int8)
        tensors |= {name: codes.reshape(values.shape), name + _SCALES: scales}
    record = json.loads((folder / "zoo.json").read_text())
    with writing(out) as fresh:
        _copy(folder, fresh)
        (fresh / _FILE).write_bytes(save(tensors))
        _finish(fresh, record | {"notes": [*record.get("notes", []), *notes]})


def whole(folder: Path) -> Path:
    """The folder itself, or the unpacked form of a packed one. Raises BadArtifact where a file is damaged."""
    if not (folder / _FILE).exists():
        return folder
    from safetensors.numpy import load, save

    record = json.loads((folder / "zoo.json").read_text())
    found = cache_folder() / "zoo" / f"{folder.name}-{record['sha256'][_FILE][:12]}"
    if (found / "zoo.json").exists():
        return found
    data = (folder / _FILE).read_bytes()
    if hashlib.sha256(data).hexdigest() != record["sha256"][_FILE]:
        raise BadArtifact(f"{_FILE} of {folder.name} is damaged; reinstall ondevice-ml")
    stored = load(data)
    tensors = {}
    for name, values in stored.items():
        if not name.endswith(_SCALES):
            scales = stored.get(name + _SCALES)
            if scales is not None:
                wide = scales.astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
                values = (values.astype(np.float32) * wide).astype(np.float16)
            tensors[name] = values
    with writing(found) as fresh:
        _copy(folder, fresh)
        (fresh / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
        _finish(fresh, record)
    return found


def _copy(folder: Path, fresh: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        if (folder / name).exists():
            (fresh / name).write_bytes((folder / name).read_bytes())


def _finish(fresh: Path, record: dict[str, Any]) -> None:
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(fresh.iterdir())}
    (fresh / "zoo.json").write_text(json.dumps(record | {"sha256": sums}, indent=1, sort_keys=True))
