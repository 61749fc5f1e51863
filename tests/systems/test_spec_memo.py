"""The proof at a tiny scale: what is counted holds; times and what needs trained heads are not judged here."""

from __future__ import annotations

import pytest

from ondevice.errors import NotBuilt
from ondevice.models import zoo
from ondevice.systems.registry import TINY, run


def test_spec_memo() -> None:
    try:
        zoo.locate("medusa-heads")
    except NotBuilt as reason:
        pytest.skip(str(reason))
    evidence = run("spec-memo", TINY)
    found = {it.metric: it for it in evidence.comparisons}
    assert len(found) == 9
    for metric in ("answers unlike plain decoding's", "budget under the bound not refused"):
        assert found[metric].holds
    assert found["tokens a pass"].ours.median > 1
