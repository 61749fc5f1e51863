"""The container of GGUF: metadata fields and tensors by name, mapped; nothing is read before it is used.

Knows the file format and trusts nothing in it. Knows nothing of models or of how blocks hold their values. The reader
of the package `gguf` believes every count of a header (an array of 2**60 items keeps it busy and filling memory), so a
file that somebody else made is read here.

Source: the format's description at github.com/ggml-org/ggml, docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, UnsupportedModel

_MOST_HEADER = 64_000_000  # bytes; a vocabulary of 256 000 tokens takes about 10 million
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
            12: "<f8"}  # fmt: skip


@dataclass(frozen=True)
class BlockType:
    """How values lie in a file: `values` of them in `size` bytes."""

    name: str
    values: int
    size: int


TYPES = {
    0: BlockType("F32", 1, 4), 1: BlockType("F16", 1, 2), 30: BlockType("BF16", 1, 2),
    2: BlockType("Q4_0", 32, 18), 3: BlockType("Q4_1", 32, 20), 6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24), 8: BlockType("Q8_0", 32, 34), 10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110), 12: BlockType("Q4_K", 256, 144), 13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
}  # fmt: skip


@dataclass(frozen=True)
class RawTensor:
    """shape: outermost axis first, as NumPy has it. raw: the bytes of each row, uint8 (rows of all axes, bytes)."""

    type: BlockType
    shape: tuple[int, ...]
    raw: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Container:
    """fields: strings, numbers, and arrays (of strings a list, of numbers a NumPy array) by key."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, RawTensor]


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def read_container(path: str | Path) -> Container:
    """A file's fields and tensors, every place checked: within the file, of the size of its shape, over no other.

    Raises BadInput where something is missing, cut off or does not fit, UnsupportedModel for another version or a
    type of blocks that is not known. Takes time and memory in proportion to the header, whatever it claims.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size < 24:
            raise BadInput(f"{path} has {size} bytes: it is cut off; download it again")
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem}") from problem
    header = _Header(path, mapped)
    magic, version = header.take("<4sI")
    if magic != b"GGUF":
        raise BadInput(f"{path} is not a GGUF file: it begins with {magic!r}")
    if version not in (2, 3):
        raise UnsupportedModel(
            f"{path} is GGUF of version {version}; versions 2 and 3, little-endian, are read"
        )
    tensors, fields = header.take("<QQ")
    header.must_hold(fields, 12, "fields")
    found = {}
    for _ in range(fields):
        key = header.string()
        if key in found:
            raise BadInput(f"{path}: the field {key!r} is there twice")
        found[key] = header.value(header.take("<I")[0])
    header.must_hold(tensors, 32, "tensors")
    infos = [header.info() for _ in range(tensors)]
    alignment = found.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 65536 or alignment & (alignment - 1):
        raise BadInput(f"{path}: tensors cannot be aligned to {alignment!r} bytes")
    start = -(-header.at // alignment) * alignment
    return Container(path, found, _placed(path, np.frombuffer(mapped, np.uint8), start, infos))


@dataclass(frozen=True)
class _Info:
    name: str
    type: BlockType
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.type.values * self.type.size


class _Header:
    """Reads one thing after another and never beyond the file."""

    def __init__(self, path: Path, mapped: mmap.mmap) -> None:
        self._path, self._mapped, self.at = path, mapped, 0
        self._end = min(len(mapped), _MOST_HEADER)

    def must_hold(self, count: int, size: int, what: str) -> None:
        """Refuse a count of things of at least this size that cannot all be there."""
        if count * size > self._end - self.at:
            raise BadInput(
                f"{self._path}: the header claims {count} {what}, {self._end - self.at} bytes are left for them; "
                "download it again"
            )

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._bytes(struct.calcsize(form), "bytes"))

    def string(self) -> str:
        try:
            return self._bytes(self.take("<Q")[0], "bytes of a string").decode()
        except UnicodeDecodeError as problem:
            raise BadInput(f"{self._path}: a string of the header is not UTF-8: {problem}") from problem

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise BadInput(f"{self._path}: a field is of the unknown type {kind}")
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._bytes(dtype.itemsize, "bytes"), dtype)[0].item()

    def _array(self) -> Any:
        kind, count = self.take("<IQ")
        if kind == _STRING:
            self.must_hold(count, 8, "strings")
            return [self.string() for _ in range(count)]
        if kind not in _SCALARS:
            raise BadInput(f"{self._path}: a field is an array of the type {kind}, which is not read")
        dtype = np.dtype(_SCALARS[kind])
        self.must_hold(count, dtype.itemsize, "numbers")
        return np.frombuffer(self._bytes(count * dtype.itemsize, "bytes"), dtype)

    def info(self) -> _Info:
        name = self.string()
        axes = self.take("<I")[0]
        if not 1 <= axes <= 4:
            raise BadInput(f"{self._path}: tensor {name!r} has {axes} axes")
        shape = self.take(f"<{axes}Q")[::-1]
        kind, offset = self.take("<IQ")
        if kind not in TYPES:
            known = ", ".join(each.name for each in TYPES.values())
            raise UnsupportedModel(
                f"{self._path}: tensor {name!r} is of type {kind}, which is not one of {known}"
            )
        if 0 in shape or shape[-1] % TYPES[kind].values:
            raise BadInput(f"{self._path}: tensor {name!r} has the shape {list(shape)} in {TYPES[kind].name}")
        return _Info(name, TYPES[kind], shape, offset)

    def _bytes(self, count: int, what: str) -> bytes:
        self.must_hold(count, 1, what)
        self.at += count
        return self._mapped[self.at - count : self.at]


def _placed(path: Path, file: npt.NDArray[np.uint8], start: int, infos: list[_Info]) -> dict[str, RawTensor]:
    data, tensors, end = file[start:], {}, 0
    for info in sorted(infos, key=lambda each: each.offset):
        if info.name in tensors:
            raise BadInput(f"{path}: tensor {info.name!r} is there twice")
        first, last = info.offset, info.offset + info.nbytes
        if first < end or last > data.size:
            raise BadInput(
                f"{path}: tensor {info.name!r} lies at {first}..{last} of {data.size} bytes, where it does not fit; "
                "download it again"
            )
        rows = math.prod(info.shape[:-1])
        tensors[info.name], end = RawTensor(info.type, info.shape, data[first:last].reshape(rows, -1)), last
    return tensors
