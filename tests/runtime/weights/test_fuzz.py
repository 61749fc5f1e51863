"""A few hundred of the mutations that benchmarks/fuzz_headers.py runs by the hundred thousand."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "fuzz_headers.py"


@pytest.mark.parametrize("what", ["GGUF", "safetensors"])
def test_mutated_headers_are_read_or_refused(what: str, tmp_path: Path) -> None:
    if not PATH.is_file():
        pytest.skip("the benchmarks are not here")
    spec = importlib.util.spec_from_file_location("fuzz_headers", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = Counter(outcome for outcome, _ in module.fuzz(what, tmp_path, 400, seed=12))
    assert found.total() == 400
    assert found["refused"] > 100
