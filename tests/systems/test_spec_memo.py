"""The proof at a tiny scale: tokens are those of plain decoding, budgets are kept; times are not judged."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_spec_memo() -> None:
    evidence = run("spec-memo", TINY)
    found = {it.metric: it for it in evidence.comparisons}
    assert len(found) == 9
    for metric in ("answers unlike plain decoding's", "budget under the bound not refused"):
        assert found[metric].holds
    assert found["tokens a pass"].ours.median > 1
