"""The package on disk that every target reads: a folder that is written whole or not at all.

    config.json         the architecture, as Hugging Face writes it
    tokenizer.json      the tokenizer, as `tokenizers` writes it
    model.safetensors   the tensors; any safetensors reader opens it; large ones start at multiples of 4096
    ondevice.json       schema, task, format and checksum of each tensor, plan, provenance, measurements

Knows bytes, formats and checksums. Knows nothing of torch, of tasks or of how a model runs.
Everything but the tensors is checked on opening; a tensor is checked when its data is first asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.atomic import reserve, writing
from ondevice.errors import BadArtifact, BadInput
from ondevice.numerics import sparse, tiles
from ondevice.numerics.tiles import TiledMatrix

SCHEMA = 1
FILES = ("config.json", "tokenizer.json", "model.safetensors", "ondevice.json")
PAGE = 4096
LARGE = 256 * 1024  # tensors from this size on start at a page, so that they can be read with O_DIRECT
_DTYPES = {"float32": "F32", "float16": "F16", "uint8": "U8", "int64": "I64"}
_PADDING = "__padding__."
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file. sha256: of it, where that is known. unit: bytes that are only read together."""

    path: Path
    offset: int
    nbytes: int
    sha256: str | None = None
    unit: int = 1


@dataclass(frozen=True)
class StoredTensor:
    """format: {"kind": "dense", "dtype", "shape"}, {"kind": "tiles", "rows", "columns", "bits", "group_size"}
    or {"kind": "sparse", "rows", "columns", "dtype"}; layers may add keys of their own. {"kind": "sealed", "form": one
    of these, …} is encrypted. array: the dense array itself, else the stored bytes, uint8 (n,).
    """

    format: dict[str, Any]
    array: npt.NDArray[Any]

    @classmethod
    def dense(cls, array: npt.NDArray[Any]) -> StoredTensor:
        return cls({"kind": "dense", "dtype": str(array.dtype), "shape": list(array.shape)}, array)

    @property
    def nbytes(self) -> int:
        return int(self.array.nbytes)

    def tiled(self) -> TiledMatrix:
        """The matrix behind the bytes of a tensor of kind "tiles"."""
        f = self.format
        return TiledMatrix.from_bytes(self.array, f["rows"], f["columns"], f["bits"], f["group_size"])

    def to_dense(self) -> npt.NDArray[Any]:
        """The values: float32 for tiles and sparse tensors (an input scale of the layer not yet applied)."""
        if self.format["kind"] == "tiles":
            return self.tiled().dequantize()
        if self.format["kind"] == "sealed":
            raise BadInput("this artifact is sealed: only who has its key can use it (--key-file)")
        if self.format["kind"] == "sparse":
            return sparse.unpack(self.array, *(self.format[key] for key in ("rows", "columns", "dtype")))
        return self.array


@dataclass(frozen=True)
class Contents:
    """What is written: everything that an artifact holds but its tensors' places."""

    config: dict[str, Any]
    tokenizer: str
    task: dict[str, Any]
    tensors: Mapping[str, StoredTensor]
    plan: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    licence: str = "unknown"
    measured: dict[str, Any] = field(default_factory=dict)


class Artifact:
    """An artifact opened for reading. Raises BadArtifact for whatever is missing, altered or truncated."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        document = self.folder / "ondevice.json"
        if not document.is_file():
            raise BadArtifact(
                f"{folder} is not an artifact: it holds no ondevice.json; make one with `ondevice fit`"
            )
        self._document = _read_document(document)
        try:
            files = self._document["files"]
            self.task: dict[str, Any] = self._document["task"]
            self.plan: list[dict[str, Any]] = self._document["plan"]
            self.provenance: dict[str, Any] = self._document["provenance"]
            self.licence: str = self._document["licence"]
            self.measured: dict[str, Any] = self._document["measured"]
            self.config: dict[str, Any] = json.loads(self._checked("config.json", files["config.json"]))
            self.tokenizer_json = self._checked("tokenizer.json", files["tokenizer.json"]).decode()
            self._file = _TensorFile(self.folder / "model.safetensors", files["model.safetensors"])
            self.tensors: Mapping[str, ReadTensor] = {
                name: ReadTensor(name, entry, self._file) for name, entry in self._document["tensors"].items()
            }
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            if isinstance(problem, BadArtifact):
                raise
            raise BadArtifact(f"{document} does not describe an artifact: {problem!r}") from problem

    @property
    def storage_bytes(self) -> int:
        """Size of the artifact: its four files; a report beside them is not counted."""
        return sum((self.folder / name).stat().st_size for name in FILES)

    @property
    def fingerprint(self) -> str:
        """Names this artifact's exact contents."""
        return str(self._document["checksum"])

    def verify(self) -> None:
        """Check every tensor now."""
        for tensor in self.tensors.values():
            _ = tensor.array

    def _checked(self, name: str, expected: dict[str, Any]) -> bytes:
        path = self.folder / name
        if not path.is_file():
            raise BadArtifact(f"{path} is missing; the artifact is not whole")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise BadArtifact(
                f"{path} is not the file that was written (its checksum differs); fit or copy again"
            )
        return data


class ReadTensor(StoredTensor):
    """A tensor of an artifact on disk: mapped, and checked against its checksum when first used."""

    def __init__(self, name: str, entry: dict[str, Any], file: _TensorFile) -> None:
        kind = {key: value for key, value in entry.items() if key != "sha256"}
        object.__setattr__(self, "format", kind)
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_sha256", entry["sha256"])
        object.__setattr__(self, "_raw", file.view(name, _stored_size(name, kind)))
        object.__setattr__(self, "_at", (file.path, file.offset(name)))

    @cached_property
    def array(self) -> npt.NDArray[Any]:  # type: ignore[override]
        raw: npt.NDArray[np.uint8] = self.__dict__["_raw"]
        if _sha256(raw) != self.__dict__["_sha256"]:
            raise BadArtifact(
                f"tensor {self.__dict__['_name']} is damaged (its checksum differs); fit or copy again"
            )
        if self.format["kind"] == "dense":
            return np.asarray(raw.view(self.format["dtype"]).reshape(self.format["shape"]))
        if self.format["kind"] == "sparse":
            try:
                sparse.check(raw, self.format["rows"], self.format["columns"], self.format["dtype"])
            except BadInput as problem:
                raise BadArtifact(f"tensor {self.__dict__['_name']}: {problem}") from problem
        return raw

    @property
    def nbytes(self) -> int:
        return int(self.__dict__["_raw"].nbytes)

    @property
    def place(self) -> Place:
        """Where its bytes lie, for those who read them otherwise; they check them too."""
        path, offset = self.__dict__["_at"]
        return Place(path, offset, self.nbytes, self.__dict__["_sha256"])


def write(folder: str | Path, contents: Contents, *, overwrite: bool = False) -> Artifact:
    """Write an artifact, whole or not at all, and open it.

    Raises BadInput where the folder exists and overwrite is False, Busy where another process writes it.
    """
    with reserve(folder, overwrite=overwrite) as place, writing(place) as fresh:
        write_files(fresh, contents)
    return Artifact(folder)


def stored_size(contents: Contents) -> int:
    """Bytes that an artifact with these contents takes, to the byte."""
    with tempfile.TemporaryDirectory() as scratch:
        write_files(Path(scratch), contents)
        return sum(Path(scratch, name).stat().st_size for name in FILES)


def write_files(folder: Path, contents: Contents) -> None:
    """Write the four files into a folder that exists. Not atomic: see `ondevice.atomic.writing`."""
    folder.joinpath("config.json").write_bytes(_canonical(contents.config))
    folder.joinpath("tokenizer.json").write_bytes(contents.tokenizer.encode())
    header = _write_tensors(folder / "model.safetensors", contents.tensors)
    document = {
        "schema": SCHEMA,
        "layout": tiles.LAYOUT_VERSION,
        "task": contents.task,
        "tensors": {
            name: tensor.format | {"sha256": _sha256(tensor.array)}
            for name, tensor in contents.tensors.items()
        },
        "plan": contents.plan,
        "provenance": contents.provenance,
        "licence": contents.licence,
        "measured": contents.measured,
        "files": {
            "config.json": {"sha256": _sha256_of(folder / "config.json")},
            "tokenizer.json": {"sha256": _sha256_of(folder / "tokenizer.json")},
            "model.safetensors": {
                "header_sha256": hashlib.sha256(header).hexdigest(),
                "size": (folder / "model.safetensors").stat().st_size,
            },
        },
    }
    document["checksum"] = hashlib.sha256(_canonical(document)).hexdigest()
    folder.joinpath("ondevice.json").write_bytes(_canonical(document))


class _TensorFile:
    """A safetensors file, mapped; its header is checked, its tensors are not."""

    def __init__(self, path: Path, expected: dict[str, Any]) -> None:
        if not path.is_file():
            raise BadArtifact(f"{path} is missing; the artifact is not whole")
        self.path, size = path, path.stat().st_size
        if size != expected["size"] or size < 8:
            raise BadArtifact(f"{path} has {size} bytes, {expected['size']} were written; copy it again")
        with path.open("rb") as file:
            self._map = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        length = int.from_bytes(self._map[:8].tobytes(), "little")
        if length > size - 8:
            raise BadArtifact(f"{path}: the header claims {length} bytes in a file of {size}")
        head = self._map[: 8 + length].tobytes()
        if hashlib.sha256(head).hexdigest() != expected["header_sha256"]:
            raise BadArtifact(f"{path}: the header is not the one that was written (its checksum differs)")
        self._start = 8 + length
        self._data = self._map[self._start :]
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for name, entry in json.loads(head[8:]).items():
            first, last = entry["data_offsets"]
            if first != end or last < first or last > self._data.size:
                raise BadArtifact(
                    f"{path}: tensor {name} lies at {first}..{last}, expected to start at {end}"
                )
            if name.startswith(_PADDING) and self._data[first:last].any():
                raise BadArtifact(f"{path}: the padding is damaged; copy it again")
            self._places[name], end = (first, last), last
        if end != self._data.size:
            raise BadArtifact(f"{path}: {self._data.size - end} bytes belong to no tensor")

    def view(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        if name not in self._places:
            raise BadArtifact(f"tensor {name} is described but not stored")
        first, last = self._places[name]
        if size not in (-1, last - first):
            raise BadArtifact(f"tensor {name} has {last - first} bytes, its format needs {size}")
        return self._data[first:last]

    def offset(self, name: str) -> int:
        """Of a tensor's first byte in the file."""
        return self._start + self._places[name][0]


def _stored_size(name: str, kind: dict[str, Any]) -> int:
    """Bytes that a tensor of this format has; -1 where only its data tells."""
    sizes = [kind[key] for key in ("rows", "columns", "bits", "group_size") if key in kind]
    if any(type(size) is not int or size < 1 for size in [*sizes, *(n + 1 for n in kind.get("shape", []))]):
        raise BadArtifact(f"tensor {name} has a format with sizes that are no sizes: {kind}")
    if kind["kind"] == "tiles":
        return tiles.stored_bytes(kind["rows"], kind["columns"], kind["bits"], kind["group_size"])
    if kind["kind"] == "dense" and kind["dtype"] in _DTYPES:
        return int(math.prod(kind["shape"]) * np.dtype(str(kind["dtype"])).itemsize)
    if kind["kind"] == "sparse" and kind["dtype"] in sparse.DTYPES:
        return -1
    if kind["kind"] == "sealed" and kind["form"]["kind"] != "sealed":
        return _stored_size(name, kind["form"])
    raise BadArtifact(f"tensor {name} has the unknown format {kind}; a newer ondevice may read it")


def _read_document(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    try:
        document = json.loads(raw)
        checksum = document.pop("checksum")
        # the exact bytes are compared, so that no flipped bit goes unseen
        whole = _canonical(document | {"checksum": checksum}) == raw
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as problem:
        raise BadArtifact(f"{path} is not readable: {problem}") from problem
    if not whole or hashlib.sha256(_canonical(document)).hexdigest() != checksum:
        raise BadArtifact(
            f"{path} is not the file that was written (its checksum differs); fit or copy again"
        )
    while document.get("schema") in _MIGRATIONS:
        document = _MIGRATIONS[document["schema"]](document)
    if document.get("schema") != SCHEMA or document.get("layout") != tiles.LAYOUT_VERSION:
        raise BadArtifact(
            f"{path} has schema {document.get('schema')}, layout {document.get('layout')}; this ondevice "
            f"reads schema {SCHEMA}, layout {tiles.LAYOUT_VERSION}; upgrade ondevice or fit again"
        )
    document["checksum"] = checksum
    return dict(document)


def _write_tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> bytes:
    """Write a safetensors file whose data starts at a page; returns its length field and header."""
    header: dict[str, Any] = {}
    blocks: list[npt.NDArray[np.uint8]] = []
    offset = 0
    for name, array in _placed(tensors):
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        header[name] = {
            "dtype": _DTYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + data.size],
        }
        blocks.append(data)
        offset += data.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    head = len(text).to_bytes(8, "little") + text
    with path.open("wb") as file:
        file.write(head)
        for data in blocks:
            file.write(data.data)
    return head


def _placed(tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """The tensors in the order of the file, large ones at pages, all at multiples of 64 bytes.

    The gap before a large tensor is filled with small ones; what they leave is padding.
    """
    for name, tensor in tensors.items():
        if str(tensor.array.dtype) not in _DTYPES:
            raise BadInput(f"tensor {name} is {tensor.array.dtype}; an artifact stores {', '.join(_DTYPES)}")
    # of one size, those of one kind together: what an expert needs at once, a plane of each matrix, is neighbours
    by_size = sorted(tensors, key=lambda name: (-tensors[name].nbytes, name.rpartition(".")[2], name))
    large = [name for name in by_size if tensors[name].nbytes >= LARGE]
    small = [name for name in by_size if tensors[name].nbytes < LARGE]
    large.sort(key=lambda name: (tensors[name].nbytes % PAGE != 0, name))
    offset = pads = 0

    def padding(size: int) -> tuple[str, npt.NDArray[Any]]:
        nonlocal offset, pads
        offset, pads = offset + size, pads + 1
        return f"{_PADDING}{pads}", np.zeros(size, np.uint8)

    for next_large in [*large, ""]:
        for filler in list(small):
            gap = -offset % PAGE if next_large else sys.maxsize
            if tensors[filler].nbytes + (-offset % 64) <= gap:
                if offset % 64:
                    yield padding(-offset % 64)
                yield filler, tensors[filler].array
                offset += tensors[filler].nbytes
                small.remove(filler)
        if next_large:
            if offset % PAGE:
                yield padding(-offset % PAGE)
            yield next_large, tensors[next_large].array
            offset += tensors[next_large].nbytes


def _canonical(document: Any) -> bytes:
    return json.dumps(
        document, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()


def _sha256(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
