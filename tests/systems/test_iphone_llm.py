"""The proof at a tiny scale: what is modelled must hold; what is timed is judged by `systems run`."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_iphone_llm() -> None:
    evidence = run("iphone-llm", TINY)
    assert [it.metric for it in evidence.comparisons if it.kind == "modelled" and not it.holds] == []
    assert {it.kind for it in evidence.comparisons} == {"modelled", "measured"}
    assert sum("modelled" in note for note in evidence.notes) >= 9
