"""Tensors of safetensors files, one or many shards, mapped: nothing is read before it is used.

Knows the file format and trusts nothing in it. Knows neither torch nor what a tensor is for.

Source: the format's description at github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Place
from ondevice.errors import BadInput

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_MOST_HEADER = 100_000_000  # bytes, as the reference implementation allows


class MappedTensor:
    """A tensor of a file. array: a view of the file; bfloat16, which NumPy has not got, becomes float32 at each use.
    place: where the file has what `array` shows; None for bfloat16."""

    def __init__(
        self, raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...], path: Path, offset: int
    ) -> None:
        self._raw, self._dtype, self._shape = raw, dtype, shape
        self.place = None if dtype == "BF16" else Place(path, offset, int(raw.nbytes))
        self.format: Mapping[str, Any] = {"kind": "dense", "dtype": str(self.dtype), "shape": list(shape)}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of `array`."""
        return np.dtype(np.float32 if self._dtype == "BF16" else _DTYPES[self._dtype])

    @property
    def nbytes(self) -> int:
        """In the file."""
        return int(self._raw.nbytes)

    @property
    def array(self) -> npt.NDArray[Any]:
        values = self._raw.view(_DTYPES[self._dtype]).reshape(self._shape)
        if self._dtype == "BF16":
            wide: npt.NDArray[Any] = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return wide
        return values

    def to_dense(self) -> npt.NDArray[Any]:
        """The values."""
        return self.array


class Checkpoint(Mapping[str, MappedTensor]):
    """The tensors of a Hugging Face folder by name: model.safetensors, or the shards of its index.

    Raises BadInput for a folder without weights in this format, a missing shard, and a damaged file.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        self._tensors: dict[str, MappedTensor] = {}
        if single.is_file():
            self._tensors = _read(single)
        elif index.is_file():
            for name in sorted(set(self._shards(index).values())):
                self._tensors |= _read(folder / name)
        else:
            raise BadInput(
                f"{folder} holds no model.safetensors and no index of one; only this format is read"
            )

    def __getitem__(self, name: str) -> MappedTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @cached_property
    def nbytes(self) -> int:
        """Of all tensors in the files."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    @staticmethod
    def _shards(index: Path) -> dict[str, str]:
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            named = {str(name): str(file) for name, file in shards.items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as problem:
            raise BadInput(f"{index} is not an index of shards: {problem!r}") from problem
        for file in named.values():
            if Path(file).name != file or not (index.parent / file).is_file():
                raise BadInput(
                    f"{index} names the shard {file!r}, which is not in its folder; download it again"
                )
        return named


def _read(path: Path) -> dict[str, MappedTensor]:
    """Every tensor of one file, its place checked: within the file, of the size of its shape, over no other."""
    size = path.stat().st_size
    if size < 10:
        raise BadInput(f"{path} has {size} bytes: it is cut off; download it again")
    with path.open("rb") as file:
        mapped = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    length = int.from_bytes(mapped[:8].tobytes(), "little")
    if not 2 <= length <= min(size - 8, _MOST_HEADER):
        raise BadInput(f"{path}: the header claims {length} bytes in a file of {size}; download it again")
    data = mapped[8 + length :]
    try:
        header = json.loads(mapped[8 : 8 + length].tobytes())
        entries = []
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                entries.append((name, str(entry["dtype"]), tuple(entry["shape"]), first, last))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise BadInput(f"{path}: the header cannot be read: {problem!r}") from problem
    tensors, end = {}, 0
    for name, dtype, shape, first, last in sorted(entries, key=_place(path)):
        if dtype not in _DTYPES:
            raise BadInput(
                f"{path}: tensor {name} is of type {dtype}, which is not one of {', '.join(_DTYPES)}"
            )
        if any(type(n) is not int or n < 0 for n in shape):
            raise BadInput(f"{path}: tensor {name} has the shape {list(shape)}")
        if (
            first < end
            or last - first != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
            or last > data.size
        ):
            raise BadInput(
                f"{path}: tensor {name} lies at {first}..{last}, where it does not fit; download it again"
            )
        tensors[name], end = MappedTensor(data[first:last], dtype, shape, path, 8 + length + first), last
    return tensors


def _place(path: Path) -> Any:
    def of(entry: tuple[Any, ...]) -> tuple[int, int]:
        first, last = entry[3], entry[4]
        if type(first) is not int or type(last) is not int or not 0 <= first <= last:
            raise BadInput(f"{path}: tensor {entry[0]} lies at {first!r}..{last!r}")
        return first, last

    return of
