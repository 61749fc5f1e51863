"""A hard limit on memory that the operating system holds: a memory cgroup, where one can be made.

Knows cgroups of both versions (Linux, with the right to make one: root, or a delegated folder). Knows nothing of what
runs. All that a member touches first counts: its own memory, and the pages of files that the system caches for it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ondevice.errors import BadInput, MissingTool

_NUMBERS = itertools.count()
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Confined:
    """A cgroup. folder: its files."""

    folder: Path

    def enter(self) -> None:
        """This process becomes a member; what it touches from now on counts."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_bytes(self) -> int:
        """Most that its members held at once, the system's cache for them included."""
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.folder / name).exists():
                return int((self.folder / name).read_text())
        raise BadInput("this system does not count the peak of a cgroup")


@contextmanager
def confine(limit: int) -> Iterator[Confined]:
    """A cgroup of at most so many bytes of memory. End its members before the block ends.

    Raises MissingTool where this process cannot make one.
    """
    if limit < 1:
        raise BadInput(f"a limit of {limit} bytes holds nothing")
    root, name = (_V1, "memory.limit_in_bytes") if _V1.is_dir() else (_V2, "memory.max")
    for left in root.glob("ondevice-*-*"):  # by a process that was killed; rmdir spares those with members
        if not Path("/proc", left.name.split("-")[1]).exists():
            with suppress(OSError):
                left.rmdir()
    folder = root / f"ondevice-{os.getpid()}-{next(_NUMBERS)}"
    try:
        folder.mkdir()
        (folder / name).write_text(str(limit))
        with suppress(OSError):  # without swap accounting there is no such file
            (folder / "memory.swap.max").write_text("0")
    except OSError as problem:
        with suppress(OSError):
            folder.rmdir()
        raise MissingTool(
            f"no memory cgroup can be made here ({problem.strerror}); run as root, or in a folder that the system "
            "delegates to you"
        ) from problem
    try:
        yield Confined(folder)
    finally:
        with suppress(OSError):
            folder.rmdir()
