"""Reads of files that go on in the background, past the system's page cache, into memory of huge pages.

Knows files, offsets and memory. Knows nothing of what the bytes are. The compiled core's threads read; where it is
missing, threads of Python do, slower.

A direct read into huge pages runs at the disk's speed with hardly any work for the processor: 2.9 GB/s where the same
read into ordinary pages got 0.9, and a mapped file leaves every page that it touched in the cache.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.devices.storage import Read
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels.matrix import core

Bytes = npt.NDArray[np.uint8]
ALIGNED = 4096  # bytes; direct reads begin and end at multiples of it, in the file and in memory
_HUGE = 2 << 20


def room(offset: int, nbytes: int) -> int:
    """Bytes of memory that a read takes: whole pages from the one where it begins."""
    return -(-(offset % ALIGNED + nbytes) // ALIGNED) * ALIGNED


def huge_pages(nbytes: int) -> Bytes:
    """Memory of zeros, uint8 (nbytes,), in huge pages where the system has them; its start is aligned to 2 MiB.

    What is not touched is not resident.
    """
    if nbytes < 1:
        raise BadInput(f"{nbytes} bytes of memory cannot be made")
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, -(-nbytes // _HUGE) * _HUGE + _HUGE, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them: ordinary pages do, slower
            memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    first = -whole.ctypes.data % _HUGE
    return whole[first : first + nbytes]


class FileStorage:
    """The disk. threads: that read. direct: ask for direct reads; where a file system refuses them they are ordinary
    ones, which `Read.direct` tells."""

    def __init__(self, threads: int = 2, *, direct: bool = True) -> None:
        if threads < 1:
            raise BadInput(f"threads must be at least 1, not {threads}")
        self._reader: Any = core.Reader(threads) if hasattr(core, "Reader") else _PythonReader(threads)
        self._direct = direct
        self._files: dict[Path, tuple[int, int]] = {}

    def read(self, path: Path, offset: int, nbytes: int, into: Bytes) -> FileTicket:
        """Begin to read bytes of a file; they will be `into[offset % ALIGNED :][:nbytes]`.

        into: uint8 (room(offset, nbytes) or more,), at a multiple of ALIGNED; it belongs to the read until its
        ticket was waited for. Raises BadInput for memory that does not do, BadArtifact where the file is too short.
        """
        number, size = self._open(path)
        if offset < 0 or nbytes < 1 or into.ndim != 1 or into.dtype != np.uint8:
            raise BadInput(f"cannot read {nbytes} bytes at {offset} into {into.dtype} {into.shape}")
        wanted = room(offset, nbytes)
        if into.size < wanted or into.ctypes.data % ALIGNED or not into.flags.writeable:
            raise BadInput(f"a read of {nbytes} bytes at {offset} takes {wanted} writable bytes at a page")
        if offset + nbytes > size:
            raise BadArtifact(_short(path, size))
        first = offset - offset % ALIGNED
        request = self._reader.submit(number, first, into[:wanted])
        return FileTicket(self._reader, request, path, offset, offset - first + nbytes)

    def _open(self, path: Path) -> tuple[int, int]:
        if path not in self._files:
            try:
                self._files[path] = self._reader.open(os.fspath(path), self._direct), path.stat().st_size
            except OSError as problem:
                raise BadInput(f"{path} cannot be read: {problem.strerror}") from problem
        return self._files[path]


class FileTicket:
    """What `FileStorage.read` gives."""

    def __init__(self, reader: Any, request: int, path: Path, offset: int, needed: int) -> None:
        self._reader, self._request, self._path = reader, request, path
        self._offset, self._needed = offset, needed

    def wait(self) -> Read:
        """Raises BadInput where the disk fails, BadArtifact where the file ended too soon."""
        error, got, started, ended, direct = self._reader.wait(self._request)
        if error:
            raise BadInput(
                f"{self._path} cannot be read at byte {self._offset}: {os.strerror(error)}; if it happens again, "
                "copy the file to another disk"
            )
        if got < self._needed:
            raise BadArtifact(_short(self._path, self._offset + got))
        return Read(started, ended, direct)


def _short(path: Path, size: int) -> str:
    return f"{path} ends after {size} bytes, before its tensors do: it was cut off or is being written; copy it again"


class _PythonReader:
    """The interface of the compiled reader."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "reads")
        self._files: list[int] = []
        self._requests: dict[int, Future[tuple[int, int, float, float, bool]]] = {}
        self._numbers = itertools.count()

    def __del__(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for file in self._files:
            os.close(file)

    def open(self, path: str, direct: bool) -> int:
        self._files.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        return len(self._files) - 1

    def submit(self, file: int, offset: int, out: Bytes) -> int:
        number = next(self._numbers)
        self._requests[number] = self._threads.submit(_read, self._files[file], offset, out)
        return number

    def wait(self, request: int) -> tuple[int, int, float, float, bool]:
        return self._requests.pop(request).result()


def _read(file: int, offset: int, out: Bytes) -> tuple[int, int, float, float, bool]:
    started, got, error = time.perf_counter(), 0, 0
    try:
        while got < out.size and (part := os.preadv(file, [out[got:].data], offset + got)):
            got += part
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, offset, out.size, os.POSIX_FADV_DONTNEED)
    except OSError as problem:
        error = problem.errno or errno.EIO
    return error, got, started, time.perf_counter(), False
