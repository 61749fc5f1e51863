"""Templated queries: what is said is what the slots hold, and nothing of a test was ever trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ondevice.data import templates
from ondevice.data.templates import PHONE, Grammar, assert_disjoint, rows
from ondevice.errors import BadInput


def test_queries_hold_their_slots_in_their_template() -> None:
    samples = templates.make("train", 300)
    for row, (text, slots) in enumerate(zip(rows(samples, "text"), rows(samples, "slots"), strict=True)):
        template = samples.facts["templates"][samples["templates"][row]]
        values = json.loads(slots)
        assert text.endswith(template.format(**values))
        assert template in PHONE.intents[samples.classes[samples["labels"][row]]]
        assert all(value in PHONE.slots[slot] for slot, value in values.items())
    assert np.bincount(samples["labels"]).tolist() == [30] * 10


def test_splits_share_neither_template_nor_value() -> None:
    train, test = templates.make("train", 2000), templates.make("test", 2000)
    assert_disjoint(train, test)
    assert not set(rows(train, "text")) & set(rows(test, "text"))
    with pytest.raises(BadInput, match="both train and train"):
        assert_disjoint(train, Grammar("leaky", PHONE.intents, PHONE.slots).make("train", 50))


def test_one_shared_value_is_a_leak() -> None:
    intents, train = {"go": ["a {x}", "b {x}", "c {x}", "d {x}"]}, Grammar("g", {"go": list("abcd")}, {})
    leaky = Grammar("g", intents, {"x": ["1", "2", "3", "4"]}).make("train", 20)
    other = Grammar("g", intents, {"x": ["5", "6", "7", "1"]}).make("test", 20)
    with pytest.raises(BadInput, match="the value '1' of x"):
        assert_disjoint(leaky, other)
    assert_disjoint(train.make("train", 9), train.make("test", 9))


def test_same_seed_same_set_other_seed_another() -> None:
    first, again, other = (templates.make("test", 40, seed=seed).fingerprint() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_query_is_drawn() -> None:
    assert (templates.draw(templates.make("train", 1), 0)[30:] < 100).any()


@pytest.mark.parametrize(
    ("intents", "slots", "message"),
    [
        ({}, {}, "no intents"),
        ({"go": ["a", "b", "c"]}, {}, "4 templates"),
        ({"go": ["a", "b", "c", "c"]}, {}, "no two equal"),
        ({"go": ["a {x}", "b", "c", "d"]}, {}, "slot x"),
        ({"go": ["a", "b", "c", "d"]}, {"x": ["1"]}, "4 values"),
    ],
)
def test_a_grammar_that_cannot_be_split_is_refused(
    intents: dict[str, list[str]], slots: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        Grammar("g", intents, slots)
    with pytest.raises(BadInput, match="1 or more"):
        templates.make("train", 0)


def test_massive_is_read(tmp_path: Path) -> None:
    lines = [
        {"partition": "train", "intent": "alarm_set", "utt": "wake me at five am",
         "annot_utt": "wake me at [time : five am]"},
        {"partition": "test", "intent": "play", "utt": "play jazz", "annot_utt": "play [genre : jazz]"},
    ]  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "en-US.jsonl").write_text("\n".join(map(json.dumps, lines)))
    samples = templates.read_massive(tmp_path)
    assert rows(samples, "text") == ["wake me at five am"]
    assert json.loads(rows(samples, "slots")[0]) == {"time": "five am"}
    assert samples.facts["templates"] == ["wake me at {time}"]
    assert samples.classes[samples["labels"][0]] == "alarm_set"
    assert_disjoint(samples, templates.read_massive(tmp_path, "test"))
    with pytest.raises(BadInput, match=r"de-DE\.jsonl"):
        templates.read_massive(tmp_path, locale="de-DE")
    with pytest.raises(BadInput, match="dev"):
        templates.read_massive(tmp_path, "dev")
    (tmp_path / "en-US.jsonl").write_text('{"intent": 3}')
    with pytest.raises(BadInput, match="line 1"):
        templates.read_massive(tmp_path)
