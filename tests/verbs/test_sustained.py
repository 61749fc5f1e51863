"""sustained: a real decode held to a modelled phone's heat; what the phone could not hold is refused."""

from __future__ import annotations

import json

import pytest

from ondevice.errors import BadInput
from ondevice.verbs.sustained import sustained


def test_questions_get_slower_as_the_phone_warms() -> None:
    # time runs 4000 times faster, so that a second here is more than an hour of the phone
    result = sustained("reference-lm", questions=8, tokens=32, faster=4000, threads=1)
    (asked,) = result.questions.values()
    assert asked[-1].case > asked[0].case > 25
    assert asked[-1].share < 0.9  # it throttles
    assert [len(each.stamps) for each in asked] == [33] * 8
    document = result.to_json()
    kinds = {
        name: it["kind"] for name, it in document["runs"][0]["questions"][0].items() if isinstance(it, dict)
    }
    assert kinds == {"tokens_a_second": "measured", "cap": "modelled", "case_celsius": "modelled"}
    json.dumps(document, allow_nan=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("llama-2-7b", "iphone-a14"), r"needs [\d.]+ GB, iphone-a14 allows an app 2.40 GB"),
        (("reference-lm", "cortex-m4"), "no thermal network"),
        (("no-such-model",), "no-such-model"),
    ],
)
def test_what_cannot_run_is_refused(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        sustained(*arguments)
