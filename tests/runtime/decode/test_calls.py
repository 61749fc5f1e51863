"""Function calls are read as they were written, however the text is cut into pieces."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.runtime.decode.calls import (
    BARE,
    MARKED,
    TAGS,
    Argued,
    Called,
    CallForm,
    CallReader,
    Said,
    form_of,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
calls = st.tuples(
    st.sampled_from(["find", "put-it"]), st.dictionaries(st.text(max_size=5), values, max_size=3)
)


def read(form: CallForm, text: str, cuts: list[int]) -> tuple[str, list[tuple[str, Any]]]:
    """What is said beside the calls, and the calls."""
    reader, events = CallReader(form), []
    places = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in pairwise(places):
        events += reader.add(text[start:end])
    events += reader.rest()
    said = "".join(event.text for event in events if isinstance(event, Said))
    named = [event for event in events if isinstance(event, Called)]
    parts = ["".join(e.text for e in events if isinstance(e, Argued) and e.number == n.number) for n in named]
    return said, [(each.name, json.loads(part)) for each, part in zip(named, parts, strict=True)]


@given(
    calls=st.lists(calls, max_size=3),
    said=st.sampled_from(["", "Let me see.", "a < b <tool"]),
    cuts=st.lists(st.integers(0, 500)),
)
def test_calls_behind_a_text(calls: list[tuple[str, Any]], said: str, cuts: list[int]) -> None:
    written = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(a)}}}\n</tool_call>' for name, a in calls
    ]
    assert read(TAGS, said + "\n".join(written), cuts) == (said, calls)


@given(call=calls, cuts=st.lists(st.integers(0, 500)))
def test_calls_that_are_the_whole_answer(call: tuple[str, Any], cuts: list[int]) -> None:
    name, arguments = call[0], json.dumps(call[1])
    assert read(BARE, f'{{"name": "{name}", "parameters": {arguments}}}', cuts) == ("", [call])
    assert read(MARKED, f'[{{"name": "{name}", "arguments": {arguments}}}]', cuts) == ("", [call])


@given(
    text=st.text(st.sampled_from('<tool_call>\n{"name": [}x'), max_size=40), cuts=st.lists(st.integers(0, 50))
)
def test_text_without_a_call_is_said_whole(text: str, cuts: list[int]) -> None:
    for form in (TAGS, BARE, MARKED):
        if form.opening not in text:
            assert read(form, text, cuts)[0].strip() == text.strip()


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ tools }}<tool_call>", TAGS),
        ('{"name": function name, "parameters": dictionary}', BARE),
        ("[TOOL_CALLS]", MARKED),
        ("", TAGS),
    ],
)
def test_the_form_is_the_template_s(template: str, form: CallForm) -> None:
    assert form_of(template) == form
