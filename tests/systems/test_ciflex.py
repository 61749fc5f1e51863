"""The proof at a tiny scale: side paths read their instructions only, and no conversation knows of them."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_ciflex() -> None:
    evidence = run("ciflex", TINY)
    assert [it.metric for it in evidence.comparisons if it.kind == "counted" and not it.holds] == []
    assert {it.metric: it.holds for it in evidence.comparisons}[
        "logits of a conversation with side paths, off those without"
    ]
    assert len(evidence.comparisons) == 10
    assert len(evidence.notes) == 7
