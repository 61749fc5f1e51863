"""The proof at a tiny scale: what is counted and what agrees must hold; times are judged by `systems run`."""

from __future__ import annotations

import pytest

pytest.importorskip("MNN", reason="needs MNN: pip install 'ondevice-ml[peers]'")
pytest.importorskip("torch")

from ondevice.systems.registry import TINY, run


def test_mnn() -> None:
    evidence = run("mnn", TINY)
    judged = [
        it
        for it in evidence.comparisons
        if it.kind == "counted" or "off" in it.metric or "error" in it.metric
    ]
    assert len(judged) == 8
    assert [it.metric for it in judged if not it.holds] == []
    assert sum("modelled" in note for note in evidence.notes) == 2
