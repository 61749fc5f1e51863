"""Folders that appear whole or not at all, and are written by one process at a time.

Knows the file system. Knows nothing of what is written.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ondevice.errors import BadInput, Busy

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def reserve(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Hold the right to write `folder` while the block runs.

    Raises BadInput where the folder exists and overwrite is False, where it is a file, or where its parent
    cannot be written; Busy where another process holds it.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and (not folder.is_dir() or folder.is_symlink()):
        raise BadInput(f"{folder} exists and is not a folder; choose another name")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise BadInput(f"{folder} exists; choose another name or pass --overwrite")
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(lock)
    except OSError as problem:
        if isinstance(problem, BlockingIOError):
            raise Busy(f"another process is writing {folder}; wait for it or choose another name") from None
        raise BadInput(f"{folder.parent} cannot be written: {problem.strerror}") from problem
    try:
        yield folder
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def writing(folder: str | Path) -> Iterator[Path]:
    """An empty folder beside `folder`; when the block ends without an error it takes its place at once.

    With any error (a full disk, Ctrl-C) it is removed, and what was at `folder` is left as it was.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".writing", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        if folder.exists():
            _exchange(fresh, folder)
        else:
            fresh.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the holder before us may have removed the file that we opened
            if path.exists() and os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _exchange(fresh: Path, folder: Path) -> None:
    """Swap two folders; in one step where the system can (Linux), else by two renames."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename and not rename(_AT_FDCWD, os.fsencode(fresh), _AT_FDCWD, os.fsencode(folder), _RENAME_EXCHANGE):
        return
    aside = fresh.with_suffix(".old")
    folder.rename(aside)
    try:
        fresh.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    aside.rename(fresh)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
