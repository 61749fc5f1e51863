"""The proof at a tiny scale: same tokens, plaintext in one world only, every attack refused, the chip simulated."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_tz_llm() -> None:
    evidence = run("tz-llm", TINY)
    assert [it.metric for it in evidence.comparisons if it.kind != "measured" and not it.holds] == []
    assert len(evidence.comparisons) == 12
    assert any("simulate TrustZone" in note for note in evidence.notes)
