"""Where the parts of an expert lie in a file and in a buffer, and the reads that bring them.

Knows offsets. Knows nothing of what is read when.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ondevice.runtime.io import ALIGNED, room
from ondevice.runtime.weights.parts import Part

# Bytes of a read, a quarter of a unit within these: what is needed waits for no more of what is not.
_SMALLEST, _LARGEST = 16 * 1024, 512 * 1024


@dataclass(frozen=True)
class Chunk:
    """Bytes of a file, and where in the unit's memory their read begins."""

    path: Path
    offset: int
    nbytes: int
    at: int


class Extents:
    """The memory of a unit. places: each part, and where its first byte lies. nbytes: of memory. Parts that are
    neighbours in the file are neighbours here too, and are read as one."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.places: list[tuple[Part, int]] = []
        self.chunks: list[Chunk] = []
        at, quarter = 0, sum(part.nbytes for part in parts) // 4
        step = min(max(quarter // ALIGNED * ALIGNED, _SMALLEST), _LARGEST)
        for group in _neighbours(parts):
            first, last = group[0].place, group[-1].place
            size = last.offset + last.nbytes - first.offset
            start = at - first.offset // ALIGNED * ALIGNED  # a byte of the file lies at this plus its offset
            self.places += [(part, start + part.place.offset) for part in group]
            offset, end = first.offset, first.offset + size
            while offset < end:
                page = offset // ALIGNED * ALIGNED
                stop = end if first.unit > 1 else min(end, page + step)  # what is sealed is only read whole
                self.chunks.append(Chunk(first.path, offset, stop - offset, start + page))
                offset = stop
            at += room(first.offset, size)
        self.nbytes = at


def _neighbours(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Runs of parts with less than a page between them."""
    group: list[Part] = []
    for part in sorted(parts, key=lambda part: (part.place.path, part.place.offset)):
        if group:
            last = group[-1].place
            near = 0 <= part.place.offset - last.offset - last.nbytes < ALIGNED
            if last.path != part.place.path or not near or last.unit > 1 or part.place.unit > 1:
                yield group
                group = []
        group.append(part)
    if group:
        yield group
