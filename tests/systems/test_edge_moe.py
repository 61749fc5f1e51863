"""The proof at a tiny scale: no cache, guess or width in its place changes an answer, and memory is what it may be."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_edge_moe() -> None:
    evidence = run("edge-moe", TINY)
    counted = [it for it in evidence.comparisons if it.kind == "counted"]
    assert len(counted) == 4
    assert [it.metric for it in counted if not it.holds] == []
    recall = next(it for it in evidence.comparisons if it.metric.startswith("recall"))
    assert recall.holds  # of paths that are counted, whatever the clock says
