"""The recipe of d2-moe runs to its end, and what depends on no clock holds."""

from __future__ import annotations

from ondevice.systems.registry import TINY, run


def test_tiny():
    found = {each.metric: each for each in run("d2-moe", TINY).comparisons}
    assert len(found) == 12
    for metric in (
        "bytes of all widths, nested against three copies",
        "answers that differ from those with all in memory",
        "makespan, HEBF against the least of all orders, simulated",
    ):
        assert found[metric].holds, found[metric].to_json()
    for width in (2, 3, 4):
        assert found[f"perplexity at {width} bits, nested against GPTQ of that width"].holds
