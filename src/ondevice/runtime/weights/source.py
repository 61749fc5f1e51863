"""Where a decoder's weights are while it runs: all in memory, or mapped. Byte-accounted, behind one interface.

Knows parts, memory and storage. Knows nothing of what a tensor is for. The third way is `streamed.py`. Wherever the
bytes come from they are used as they are stored, so no source changes a token.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Place
from ondevice.devices.storage import Storage, Ticket
from ondevice.errors import BadArtifact
from ondevice.runtime.io import ALIGNED, FileStorage, huge_pages, room
from ondevice.runtime.projection import Stored, Tensors
from ondevice.runtime.table import Table, read_table
from ondevice.runtime.weights.panels import PanelTable
from ondevice.runtime.weights.parts import Part, place_of

Bytes = npt.NDArray[np.uint8]


class HeldTensor:
    """A stored tensor in memory. array: the dense array, or the stored bytes."""

    def __init__(self, format: Mapping[str, Any], array: npt.NDArray[Any]) -> None:
        self.format, self.array = format, array

    @classmethod
    def of(cls, format: Mapping[str, Any], stored: Bytes) -> HeldTensor:
        """Of the bytes of a tensor, which are not copied."""
        if format["kind"] == "dense":
            return cls(format, stored.view(format["dtype"]).reshape(format["shape"]))
        return cls(format, stored)

    def to_dense(self) -> npt.NDArray[Any]:
        """The values of a dense tensor; kernels read the others as they are."""
        return self.array


Key = tuple[int | str, str | int]  # of a stage, see `parts.Stage`


class WeightSource(Mapping[str, Stored]):
    """A decoder's tensors by name, some of them perhaps only there while they are held.

    bytes_read: from storage so far. bytes_resident: that it keeps in memory; what is not is read when it is needed.
    streams_layers: whether parts of layers, not only of the head, are only there while they are held.
    """

    bytes_read: int
    bytes_resident: int
    streams_layers: bool = False

    @abstractmethod
    def hold(self, key: Key) -> AbstractContextManager[None]:
        """While the block runs, the parts of a stage are in memory.

        Stages are held in the order of a pass. Raises BadInput or BadArtifact where they cannot be read; then the
        next pass begins anew.
        """

    def head(self, name: str) -> Sequence[tuple[Key, Stored]]:
        """The bands of the matrix that gives the logits, and the stage in which each is there."""
        return [(("head", 0), self[name])]

    def table(self, name: str) -> Table | PanelTable:
        """The embeddings of tokens of that name."""
        return read_table(self, name)


class Mapped(WeightSource):
    """Tensors where they are, in files that the system maps: it reads what is touched, and may forget it again."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._before = _read_so_far()

    @property
    def bytes_read(self) -> int:  # type: ignore[override]
        """By this process since then, from the disk."""
        return _read_so_far() - self._before

    @property
    def bytes_resident(self) -> int:  # type: ignore[override]
        """All of them, for as long as the system lets them be."""
        return sum(int(getattr(tensor, "nbytes", tensor.array.nbytes)) for tensor in self._tensors.values())

    def hold(self, key: Key) -> AbstractContextManager[None]:
        return nullcontext()

    def __getitem__(self, name: str) -> Stored:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class Resident(WeightSource):
    """Tensors read into memory of huge pages, past the page cache, and checked as they come.

    Those that are small, or that no kernel reads as they are stored, are taken from `tensors` as ever.
    """

    def __init__(self, tensors: Tensors, *, storage: Storage | None = None) -> None:
        self.storage = storage or FileStorage()
        self.bytes_read = self.bytes_resident = 0
        self._held: dict[str, Stored] = {}
        self._names = list(tensors)
        parts = []
        for name, tensor in tensors.items():
            place = place_of(tensor)
            if place is None:
                self._keep(name, tensor)
            else:
                parts.append(Part(name, name, place, tensor.format))
        self._load(parts)

    def hold(self, key: Key) -> AbstractContextManager[None]:
        return nullcontext()

    def __getitem__(self, name: str) -> Stored:
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _keep(self, name: str, tensor: Stored) -> None:
        """A copy of a small tensor, so that no page of the file stays in use; another form as it is."""
        if tensor.format["kind"] == "dense":
            tensor = HeldTensor(tensor.format, np.array(tensor.array))
        self._held[name] = tensor
        self.bytes_resident += int(tensor.array.nbytes)

    def _load(self, parts: Sequence[Part]) -> None:
        """Read parts into memory that stays."""
        sizes = [room(part.place.offset, part.nbytes) for part in parts]
        if not parts:
            return
        memory, at = huge_pages(sum(sizes)), 0
        tickets: list[Ticket] = []
        for part, size in zip(parts, sizes):
            tickets.append(self._read(part.place, memory[at : at + size]))
            self._held[part.name] = self._view(part, memory[at : at + size])
            at += size
        self.bytes_resident += at
        for part, ticket, stop in zip(parts, tickets, np.cumsum(sizes)):
            ticket.wait()
            if part.place.sha256 is not None:
                stored = memory[stop - room(part.place.offset, part.nbytes) :][part.place.offset % ALIGNED :]
                check(part.name, part.place, hashlib.sha256(stored[: part.nbytes].data))

    def _read(self, place: Place, into: Bytes) -> Ticket:
        self.bytes_read += place.nbytes
        return self.storage.read(place.path, place.offset, place.nbytes, into)

    @staticmethod
    def _view(part: Part, memory: Bytes) -> HeldTensor:
        return HeldTensor.of(part.format, memory[part.place.offset % ALIGNED :][: part.nbytes])


def check(name: str, place: Place, digest: Any) -> None:
    """Raise BadArtifact where a tensor's bytes, of which this is the SHA-256, are not those that were written."""
    if place.sha256 is not None and digest.hexdigest() != place.sha256:
        raise BadArtifact(f"tensor {name} is damaged (its checksum differs); fit or copy again")


def _read_so_far() -> int:
    counters = Path("/proc/self/io")
    if not counters.exists():
        return 0
    return int(dict(line.split(": ") for line in counters.read_text().splitlines())["read_bytes"])
