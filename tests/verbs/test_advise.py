"""advise: what it recommends is what its own table calls reliable, and larger devices hold larger models."""

from __future__ import annotations

import json

import pytest

from ondevice.errors import BadInput, DeviceUnknown
from ondevice.verbs.advise import READING, advise


@pytest.mark.parametrize("task", ["chat", "code", "summarise"])
def test_the_best_is_the_largest_that_is_reliable(task: str) -> None:
    advice = advise("raspberry-pi-5", task)
    assert len(advice.table) == 25
    assert advice.best is not None
    assert advice.best.verdict == "reliable"
    for it in advice.table:
        usable = it.verdict == "reliable" and it.decode is not None and it.decode >= READING
        assert not usable or it.parameters <= advice.best.parameters
        if it.spread is not None:
            assert it.decode is not None
            assert it.spread[0] < it.decode < it.spread[1]
            assert it.verdict == (
                "reliable" if it.spread[0] >= 1 else "no" if it.spread[1] < 1 else "uncertain"
            )
        else:
            assert it.memory > it.allowed
    document = advice.to_json()
    assert document["kind"] == "modelled"
    json.dumps(document, allow_nan=False)


def test_a_larger_board_holds_a_larger_model() -> None:
    small, large = (advise(board).best for board in ("raspberry-pi-4", "orange-pi-5-pro"))
    assert small is not None
    assert large is not None
    assert small.parameters < large.parameters
    assert advise("cortex-m4").best is None


def test_unknown_tasks_and_boards() -> None:
    with pytest.raises(BadInput, match="no task 'sing'; there are: chat"):
        advise("raspberry-pi-5", "sing")
    with pytest.raises(DeviceUnknown, match="no device 'abacus'"):
        advise("abacus")
