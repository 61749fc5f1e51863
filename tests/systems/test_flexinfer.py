"""The proof at a tiny scale: no way to stream changes a token, and reading ahead helps where reads take their time."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_flexinfer() -> None:
    evidence = run("flexinfer", TINY)
    assert [it.metric for it in evidence.comparisons if it.kind == "counted" and not it.holds] == []
    assert len(evidence.comparisons) == 3
    assert len(evidence.notes) == 3
