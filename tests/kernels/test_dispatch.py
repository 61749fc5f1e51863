from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.kernels import Kernels, Linear, Matrix, available, compiled, instruction_set


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_the_compiled_core_is_in_use() -> None:
    assert compiled()
    assert available()[-2:] == ["portable", "reference"]


@pytest.mark.parametrize("name", available())
def test_the_environment_chooses_the_instruction_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_ISA", name)
    assert instruction_set() == Kernels().instruction_set == name


@pytest.mark.parametrize("name", ["sse2", "AVX2", " ", *{"neon", "avx2"} - set(available())])
def test_an_instruction_set_that_cannot_run_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_ISA", name)
    with pytest.raises(BadInput, match="choose from"):
        Kernels()
    with pytest.raises(BadInput, match="choose from"):
        Kernels(instruction_set=name)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_senseless_number_of_threads_is_refused(threads: int) -> None:
    with pytest.raises(BadInput, match="threads"):
        Kernels(threads)


def test_without_the_core_numpy_takes_over_with_one_warning() -> None:
    code = """
import sys
sys.modules["ondevice.kernels._core"] = None
from ondevice.kernels import Kernels, available, compiled
assert not compiled() and available() == ["reference"]
print([Kernels(2).instruction_set for _ in range(3)])
"""
    done = python(code)
    assert done.stdout.strip() == "['reference', 'reference', 'reference']"
    assert done.stderr.count("compiled core of ondevice is missing") == 1
    quiet = python(code, ONDEVICE_ISA="reference")
    assert "missing" not in quiet.stderr


def test_kernels_import_neither_torch_nor_transformers() -> None:
    done = python(
        "import sys, ondevice.kernels, ondevice.runtime.encoder, ondevice.backends.native;"
        "print([m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def work(kernels: Kernels) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((64, 96), dtype=np.float32)
    layer = Linear([Matrix.dense(np.random.default_rng(1).standard_normal((400, 96), dtype=np.float32))])
    return kernels.linear(x, layer)


def _in_child(kernels: Kernels, expected: np.ndarray, result: multiprocessing.connection.Connection) -> None:
    result.send(bool(np.array_equal(work(kernels), expected)))


def test_threads_survive_a_fork() -> None:
    kernels = Kernels(3)
    expected = work(kernels)
    context = multiprocessing.get_context("fork")
    parent_end, child_end = context.Pipe()
    child = context.Process(target=_in_child, args=(kernels, expected, child_end))
    child.start()
    assert parent_end.poll(60), "the child hangs"
    assert parent_end.recv()
    child.join()
    np.testing.assert_array_equal(work(kernels), expected)


def test_calls_from_several_threads_take_turns() -> None:
    kernels = Kernels(2)
    expected = work(kernels)
    results: list[np.ndarray] = []
    callers = [
        threading.Thread(target=lambda: results.extend(work(kernels) for _ in range(20))) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 80
    assert all(np.array_equal(result, expected) for result in results)
