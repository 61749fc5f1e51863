"""Background reads give the bytes that the file has, wherever they lie, or an error that says what is wrong."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.errors import BadArtifact, BadInput
from ondevice.runtime import io
from ondevice.runtime.io import ALIGNED, FileStorage, huge_pages, room

SIZE = 9_000_001  # more than two blocks, and no multiple of a page


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("files") / "random.bin"
    where.write_bytes(np.random.default_rng(0).bytes(SIZE))
    return where


@pytest.fixture(params=["compiled, direct", "compiled, buffered", "Python"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FileStorage:
    if request.param == "Python":
        monkeypatch.setattr(io, "core", None)
    elif not hasattr(io.core, "Reader"):
        pytest.skip("the compiled core is not installed")
    return FileStorage(2, direct=request.param == "compiled, direct")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_is_read_as_the_file_has_it(path: Path, storage: FileStorage, data: st.DataObject) -> None:
    expected, memory = path.read_bytes(), huge_pages(SIZE + 3 * ALIGNED)
    tickets, ranges, at = [], [], 0
    for _ in range(data.draw(st.integers(1, 3))):
        offset = data.draw(st.one_of(st.integers(0, SIZE - 1), st.sampled_from([0, ALIGNED, SIZE - 1])))
        nbytes = data.draw(st.integers(1, min(SIZE - offset, SIZE // 3)))
        tickets.append(storage.read(path, offset, nbytes, memory[at : at + room(offset, nbytes)]))
        ranges.append((at + offset % ALIGNED, offset, nbytes))
        at += room(offset, nbytes)
    for ticket, (place, offset, nbytes) in list(zip(tickets, ranges))[::-1]:
        done = ticket.wait()
        assert done.ended >= done.started
        assert memory[place : place + nbytes].tobytes() == expected[offset : offset + nbytes]


def test_many_threads_may_ask_and_wait(path: Path, storage: FileStorage) -> None:
    expected = path.read_bytes()

    def one(seed: int) -> bool:
        memory, random = huge_pages(300_000), np.random.default_rng(seed)
        for _ in range(10):
            offset, nbytes = int(random.integers(0, SIZE - 200_000)), int(random.integers(1, 200_000))
            storage.read(path, offset, nbytes, memory).wait()
            if memory[offset % ALIGNED :][:nbytes].tobytes() != expected[offset : offset + nbytes]:
                return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(one, range(8)))


def test_a_file_that_is_cut_off_is_named(path: Path, storage: FileStorage, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="ends after 9000001 bytes"):
        storage.read(path, SIZE - 10, 11, huge_pages(2 * ALIGNED))
    shrinking = tmp_path / "shrinking.bin"
    shrinking.write_bytes(path.read_bytes())
    storage.read(shrinking, 0, 10, huge_pages(ALIGNED)).wait()
    os.truncate(shrinking, 5_000_000)  # after it was opened
    with pytest.raises(BadArtifact, match="ends after 5000000 bytes"):
        storage.read(shrinking, 4096, 8_000_000, huge_pages(SIZE)).wait()


def test_what_cannot_be_read_is_an_error(path: Path, storage: FileStorage, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        storage.read(tmp_path / "missing", 0, 1, huge_pages(ALIGNED))
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match="Is a directory"):  # the system's own error, from a thread
        storage.read(tmp_path / "folder", 0, 1, huge_pages(ALIGNED)).wait()
    memory = huge_pages(3 * ALIGNED)
    for offset, nbytes, into in (
        (0, ALIGNED + 1, memory[:ALIGNED]),
        (ALIGNED - 1, 2, memory[:ALIGNED]),
        (0, 1, memory[1:]),
        (-1, 1, memory),
        (0, 0, memory),
        (0, 1, memory.view(np.int8)),
    ):
        with pytest.raises(BadInput):
            storage.read(path, offset, nbytes, into)


def test_a_storage_that_goes_away_ends_its_reads(path: Path, storage: FileStorage) -> None:
    memory = huge_pages(SIZE + ALIGNED)
    tickets = [storage.read(path, 0, SIZE, memory) for _ in range(20)]
    tickets[0].wait()
    del tickets, storage  # without waiting for the others


def test_huge_pages_are_aligned_and_empty() -> None:
    for nbytes in (1, ALIGNED, (2 << 20) + 1):
        memory = huge_pages(nbytes)
        assert memory.shape == (nbytes,)
        assert memory.ctypes.data % (2 << 20) == 0
        assert not memory.any()
    with pytest.raises(BadInput):
        huge_pages(0)
