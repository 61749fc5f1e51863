"""Whether some bytes can be found in the memory of a process, or in files.

Knows Linux' /proc. Knows nothing of what the bytes are. Whoever runs this must be allowed to read the process: its
parent, or root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Bytes = npt.NDArray[np.uint8]
_CHUNK = 16 << 20
_DISTINCT = 24  # different bytes that a sample has at least: zeros and ones are everywhere
_FIRST = 5  # of its first eight, by which candidates are found


def samples_of(tensors: Iterable[Bytes], *, size: int = 64, seed: int = 0) -> list[bytes]:
    """A piece of each tensor (uint8 (n,)), where it has one that is not found anywhere by chance."""
    random, found = np.random.default_rng(seed), []
    for tensor in tensors:
        for _ in range(8):
            at = int(random.integers(max(1, tensor.size - size)))
            piece = tensor[at : at + size].tobytes()
            if len(piece) == size and len(set(piece)) >= _DISTINCT and len(set(piece[:8])) >= _FIRST:
                found.append(piece)
                break
    return found


def find_in_process(pid: int, samples: Sequence[bytes]) -> set[int]:
    """Numbers of the samples that are somewhere in the memory of a process, or in files that it has open.

    Raises BadInput where it must not be read.
    """
    folder, found = Path(f"/proc/{pid}"), set[int]()
    try:
        maps = (folder / "maps").read_text()
        memory = os.open(folder / "mem", os.O_RDONLY)
    except OSError as problem:
        raise BadInput(f"the memory of process {pid} cannot be read: {problem.strerror}") from problem
    try:
        for line in maps.splitlines():
            span, rights = line.split()[:2]
            start, stop = (int(each, 16) for each in span.split("-"))
            if rights.startswith("r") and "[v" not in line:
                found |= _find(_pieces(memory, start, stop), samples)
    finally:
        os.close(memory)
    return found | find_in_files((folder / "fd").iterdir(), samples)


def find_in_files(paths: Iterable[Path], samples: Sequence[bytes]) -> set[int]:
    """The same in files; what is no ordinary file is passed over."""
    found = set[int]()
    for path in paths:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                continue
            file = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            found |= _find(_pieces(file, 0, os.fstat(file).st_size), samples)
        finally:
            os.close(file)
    return found


def _pieces(file: int, start: int, stop: int) -> Iterator[Bytes]:
    """Everything between two places, in pieces that overlap, what cannot be read left out."""
    for at in range(start, stop, _CHUNK):
        try:
            yield np.frombuffer(os.pread(file, min(_CHUNK + 256, stop - at), at), np.uint8)
        except OSError:
            continue


def _find(pieces: Iterable[Bytes], samples: Sequence[bytes]) -> set[int]:
    """Numbers of the samples in some pieces. Candidates are found by two bytes, then eight, at every offset."""
    if any(not 8 <= len(sample) <= 256 for sample in samples):
        raise BadInput("samples must be of 8 to 256 bytes")
    heads: dict[bytes, list[int]] = {}
    for number, sample in enumerate(samples):
        heads.setdefault(sample[:8], []).append(number)
    starts = np.array([np.frombuffer(head, np.uint64)[0] for head in heads], np.uint64)
    likely = np.zeros(1 << 16, bool)
    likely[starts & np.uint64(0xFFFF)] = True
    found = set[int]()
    for piece in pieces:
        for shift in (0, 1):
            pairs = piece[shift : shift + (piece.size - shift) // 2 * 2].view(np.uint16)
            spots = 2 * np.flatnonzero(likely[pairs]) + shift
            spots = spots[spots + 8 <= piece.size]
            eights = piece[spots[:, None] + np.arange(8)].view(np.uint64)[:, 0]
            for spot in spots[np.isin(eights, starts)].tolist():
                for number in heads[piece[spot : spot + 8].tobytes()]:
                    if piece[spot : spot + len(samples[number])].tobytes() == samples[number]:
                        found.add(number)
    return found
