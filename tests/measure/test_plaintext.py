"""Bytes that are looked for are found wherever they are, and only there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.measure.plaintext import find_in_files, find_in_process, samples_of


@given(st.integers(0, 5000), st.integers(0, 1000), st.integers(0, 2**32))
def test_as_bytes_find_does(before: int, after: int, seed: int) -> None:
    import tempfile

    random = np.random.default_rng(seed)
    samples = [random.bytes(64) for _ in range(5)]
    text = random.bytes(before) + samples[3] + random.bytes(after) + samples[1][:63]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(text)
        assert find_in_files([path, Path(folder)], samples) == {
            n for n, each in enumerate(samples) if each in text
        }


def test_in_a_process_and_over_the_edges_of_pieces() -> None:
    """Another process holds two of three samples, one of them across a boundary of what is read at once."""
    samples = [os.urandom(64) for _ in range(3)]
    program = (
        "import sys, mmap; held = mmap.mmap(-1, 40 << 20); "
        "one, other = (bytes.fromhex(each) for each in sys.stdin.readline().split()); "
        "held[(16 << 20) - 30 : (16 << 20) + 34] = one; held[-64:] = other; del one, other; "
        "print('held', flush=True); sys.stdin.readline()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin
    assert child.stdout
    try:
        child.stdin.write(" ".join(each.hex() for each in samples[:2]) + "\n")
        child.stdin.flush()
        assert child.stdout.readline() == "held\n"
        assert find_in_process(child.pid, samples) == {0, 1}
    finally:
        child.kill()
        child.wait()


def test_samples_are_of_what_is_not_everywhere() -> None:
    random = np.random.default_rng(0)
    tensors = [np.zeros(1000, np.uint8), random.integers(0, 256, 1000, np.uint8), np.ones(30, np.uint8)]
    [sample] = samples_of(tensors)
    assert sample in tensors[1].tobytes()
    assert samples_of(tensors) == [sample]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        find_in_process(2**22 + 1, [b"x" * 64])
    (tmp_path / "file").write_bytes(b"y" * 100)
    with pytest.raises(BadInput, match="8 to 256"):
        find_in_files([tmp_path / "file"], [b"short"])
