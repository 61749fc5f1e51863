"""The proof at a tiny scale: what is counted and what is quality must hold; times are judged by `systems run`."""

from __future__ import annotations

import pytest

pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install 'ondevice-ml[peers]'")

from ondevice.systems.registry import TINY, run


def test_melt() -> None:
    evidence = run("melt", TINY)
    judged = [it for it in evidence.comparisons if it.kind == "counted" or "perplexity" in it.metric]
    assert len(judged) == 5
    assert [it.metric for it in judged if not it.holds] == []
    # even here the energy of phases is that of the whole, but for the moments between them
    energy = next(it for it in evidence.comparisons if it.metric.startswith("energy of phases"))
    assert energy.value < 0.1
    assert "out of memory" in evidence.notes[-1]
    assert sum("tokens/s" in note for note in evidence.notes) == 5
