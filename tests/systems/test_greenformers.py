"""The proof at a tiny scale: what is counted and what is quality must hold; times are judged by `systems run`."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_greenformers() -> None:
    evidence = run("greenformers", TINY)
    # of two layers most parameters are embeddings, which stay
    judged = [it for it in evidence.comparisons if it.unit == "" and it.metric != "parameters"]
    assert {it.metric for it in judged} >= {
        "cosine, rank 0.3 to 0.5",
        "cosine, SVD against random halves",
        "digits: parameters",
    }
    # MRR@10 of 20 pairs steps by more than the ranks differ, and one pass of distillation regains less
    loose = ("MRR@10", "share of the loss", "digits: accuracy")
    assert [it.metric for it in judged if not it.holds and not it.metric.startswith(loose)] == []
    regained = next(it for it in judged if it.metric.startswith("share of the loss"))
    assert regained.ours.median > 0.2
    assert min(it.ours.median for it in judged if it.metric.startswith("digits: accuracy")) > 0.9
    assert any("linformer" in note and "tokens, of those tried" in note for note in evidence.notes)
