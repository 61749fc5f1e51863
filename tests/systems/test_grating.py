"""The proof at a tiny scale, on a model that the quick recipe makes: layers that stream choose the same in less memory,
and what is said of leaving early fits what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from ondevice.systems.registry import TINY, run
from ondevice.train import recipes


def test_grating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = recipes.build("rerank-tiny", "quick", out=tmp_path / "rerank-tiny")
    assert quick.record["metrics"]["MRR@10"] > 0
    monkeypatch.setattr("ondevice.models.zoo.locate", lambda name: tmp_path / name)
    found = {it.metric: it for it in run("grating", TINY).comparisons}
    assert found["choices that differ"].holds
    memory = next(it for metric, it in found.items() if metric.startswith("peak memory"))
    assert memory.baseline is not None
    assert memory.ours.median < memory.baseline.median
    assert 0 <= found["tokens in layers left out"].ours.median < 1
    assert 0.5 < found["share of the whole model's five"].ours.median <= 1
