"""One piece of memory that is filled from its start and given back from its end, wiped.

Knows pages. Knows nothing of what lies in them.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.runtime.io import ALIGNED

Bytes = npt.NDArray[np.uint8]
_HUGE = 2 << 20


class Region:
    """Private memory for so many bytes; pages that were never touched are not there.

    bytes: uint8 (nbytes,), its start aligned to 2 MiB.
    """

    def __init__(self, nbytes: int) -> None:
        if nbytes < 1:
            raise BadInput(f"a region of {nbytes} bytes cannot be made")
        private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
        self._memory = mmap.mmap(-1, -(-nbytes // _HUGE) * _HUGE + _HUGE, **private)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them: ordinary pages do, slower
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._memory, np.uint8)
        self._first = -whole.ctypes.data % _HUGE
        self.bytes: Bytes = whole[self._first : self._first + nbytes]

    def touch(self, start: int, stop: int) -> None:
        """Have the pages of these bytes be there."""
        self.bytes[start:stop:ALIGNED] = 0

    def release(self, start: int) -> None:
        """Overwrite everything from a page's start on with zeros, and give it back to the system."""
        self.bytes[start:] = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED, self._first + start, len(self.bytes) - start)
