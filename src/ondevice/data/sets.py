"""Data sets in memory, their fingerprint, and the cache of the sets that makers make.

Knows arrays and the cache folder. Knows nothing of what is in a set, nor of torch.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ondevice.atomic import writing
from ondevice.cache import cache_folder
from ondevice.errors import BadInput

Array = npt.NDArray[Any]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Ragged:
    """Rows of different length one after another. values: (total, ...). starts: int64 (rows + 1,)."""

    values: Array
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, rows: Iterable[Array]) -> Ragged:
        rows = [np.asarray(row) for row in rows]
        starts = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=starts[1:])
        return cls(np.concatenate(rows), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Array:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        return self.values[self.starts[row] : self.starts[row + 1]]


@dataclass(frozen=True)
class DataSet:
    """Samples by row.

    arrays: name -> array or `Ragged`, all with as many rows. Names in use: images uint8 (n, height, width, 3 or
    1), labels int64 (n,), masks uint8 (n, height, width), audio int16, rate in `facts`; the rest each maker
    documents. classes: names of the labels. facts: what else a reader must know (sampling rate, …), JSON.
    name, split, version: for the record.
    """

    name: str
    split: str
    arrays: Mapping[str, Array | Ragged]
    classes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def __post_init__(self) -> None:
        sizes = {name: len(array) for name, array in self.arrays.items()}
        if len(set(sizes.values())) != 1:
            raise BadInput(f"the arrays of {self.name} differ in their number of rows: {sizes}")

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, name: str) -> Array:
        """An array by name. Raises BadInput for an unknown or a ragged one (see `ragged`)."""
        array = self._find(name)
        if isinstance(array, Ragged):
            raise BadInput(f"the rows of {name} differ in length; read them by ragged({name!r})")
        return array

    def ragged(self, name: str) -> Ragged:
        """Rows of different length by name."""
        array = self._find(name)
        if not isinstance(array, Ragged):
            raise BadInput(f"{name} is a plain array; read it by set[{name!r}]")
        return array

    def take(self, rows: Iterable[int]) -> DataSet:
        """These rows, in this order."""
        index = np.fromiter(rows, np.int64)

        def of(array: Array | Ragged) -> Array | Ragged:
            return Ragged.of(array[row] for row in index) if isinstance(array, Ragged) else array[index]

        return replace(self, arrays={name: of(array) for name, array in self.arrays.items()})

    def fingerprint(self) -> dict[str, Any]:
        """What a result records of its data: {"name", "split", "version", "count", "sha256"}.

        Floats are rounded to 16 bits of the array's range first: their last bits differ between machines.
        """
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            for part in (array.values, array.starts) if isinstance(array, Ragged) else (array,):
                kept = _quantized(part) if part.dtype.kind == "f" else part
                digest.update(f"{name} {kept.dtype.str} {kept.shape}".encode())
                digest.update(np.ascontiguousarray(kept).data)
        return {
            "name": self.name,
            "split": self.split,
            "version": self.version,
            "count": len(self),
            "sha256": digest.hexdigest(),
        }

    def _find(self, name: str) -> Array | Ragged:
        if name not in self.arrays:
            raise BadInput(f"{self.name} has no {name!r}; it has: {', '.join(self.arrays)}")
        return self.arrays[name]


def generator(name: str, split: str, seed: int) -> np.random.Generator:
    """The random numbers of a set: others for every name, split and seed. Raises BadInput for another split."""
    if split not in get_args(Split):
        raise BadInput(f"split {split!r} is neither 'train' nor 'test'")
    return np.random.default_rng([seed, *f"{name} {split}".encode()])


def kept(name: str, settings: Mapping[str, Any], make: Callable[[], DataSet]) -> DataSet:
    """What `make` makes, kept in the cache folder by name and settings.

    settings: all that decides what is made, JSON; name a version of the maker among them. An entry that is
    damaged is made again, with a warning.
    """
    key = hashlib.sha256(json.dumps([name, settings], sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "data" / f"{name}-{key}"
    if folder.exists():
        try:
            return _read(folder)
        except Exception as problem:
            warnings.warn(
                f"the cached data set {folder.name} is damaged ({problem}); making it again", stacklevel=2
            )
    made = make()
    with writing(folder) as fresh:
        _write(made, fresh)
    return made


def _write(made: DataSet, folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {}
    for name, array in made.arrays.items():
        if isinstance(array, Ragged):
            tensors[f"{name}.values"], tensors[f"{name}.starts"] = array.values, array.starts
        else:
            tensors[name] = array
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        folder / "arrays.safetensors",
    )
    record = {
        "name": made.name,
        "split": made.split,
        "classes": list(made.classes),
        "facts": dict(made.facts),
        "version": made.version,
        "ragged": [name for name, array in made.arrays.items() if isinstance(array, Ragged)],
        "order": list(made.arrays),
        "sha256": hashlib.sha256((folder / "arrays.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "set.json").write_text(json.dumps(record))


def _read(folder: Path) -> DataSet:
    from safetensors.numpy import load

    record = json.loads((folder / "set.json").read_text())
    content = (folder / "arrays.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise BadInput("its checksum does not fit")
    tensors = load(content)
    arrays: dict[str, Array | Ragged] = {
        name: Ragged(tensors[f"{name}.values"], tensors[f"{name}.starts"])
        if name in record["ragged"]
        else tensors[name]
        for name in record["order"]
    }
    return DataSet(
        record["name"], record["split"], arrays, tuple(record["classes"]), record["facts"], record["version"]
    )


def _quantized(values: Array) -> npt.NDArray[np.int32]:
    """Floats as 16-bit steps of the largest magnitude, to one step's rounding."""
    top = float(np.max(np.abs(values), initial=0.0))
    step = 2.0 ** (np.ceil(np.log2(top)) - 15) if top > 0 else 1.0
    return np.round(values.astype(np.float64) / step).astype(np.int32)
