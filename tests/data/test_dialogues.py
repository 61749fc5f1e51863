"""Made conversations: answers that can be checked against the words, and sides that share no pair."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.data import dialogues
from ondevice.errors import BadInput

_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@given(st.integers(0, 1000), st.sampled_from(["train", "test"]))
@settings(max_examples=40, deadline=None)
def test_right_answers_follow_from_what_was_said(seed: int, split: dialogues.Split) -> None:
    [turns] = dialogues.make(split, 1, seed=seed)
    assert len(turns) == 12
    for before, turn in zip([None, *turns], turns):
        if before is not None:
            assert turn.history.startswith(f"{before.history}\n< {before.reply}\n> ")
        message = turn.history.rsplit("\n> ", 1)[1]
        person = re.findall(rf"\b({'|'.join(dialogues.PEOPLE)})\b", turn.history)[-1]
        if match := re.search(r"has (\w+ty)(?: (\w+))? coins", message):
            number = 20 + 10 * _TENS.index(match[1]) + _ONES.index(match[2] or "")
            assert turn.answers["digits"] == str(number)
        if "rewrite" in turn.answers:
            thing = message.split()[-1] if turn.need == "rewrite" else message.split()[4]
            assert turn.answers["rewrite"] == f"what colour is the {thing} of {person}"
            assert re.findall(rf"{person} has a (\w+) {thing}", turn.history)[-1] == turn.reply
        if "summary" in turn.answers:  # of everything said since this person was first spoken of
            said = re.findall(r"> (\w+) has a (\w+ \w+)", turn.history)
            owned = [what for who, what in said[-turn.answers["summary"].count(",") - 1 :] if who == person]
            assert turn.answers["summary"] == " , ".join(owned)
        assert turn.need == dialogues.NONE or turn.need in turn.answers
        assert (turn.answers["topic"] == "yes") == (turn.need == "topic")


def test_no_pair_of_the_test_conversations_stands_in_training() -> None:
    pairs = {}
    for split in ("train", "test"):
        texts = [turns[-1].history for turns in dialogues.make(split, 60, seed=3)]
        pairs[split] = {pair for text in texts for pair in re.findall(r"(\w+) has a \w+ (\w+)", text)}
    assert pairs["train"]
    assert pairs["test"]
    assert not pairs["train"] & pairs["test"]
    assert dialogues.make("test", 2, seed=3) == dialogues.make("test", 2, seed=3)


def test_as_many_examples_of_either_style() -> None:
    [turns] = dialogues.make("train", 1, seed=1)
    items = dialogues.items(turns, np.random.default_rng(0))
    starts = [item.prompt.startswith("# ") for item in items]
    choices = [item.answer.strip() in dialogues.LETTERS for item in items]
    questions = ["? \n=" not in item.prompt and item.answer in (" yes\n", " no\n") for item in items]
    assert sum(starts) == sum(choices) == len(turns) == len(items) / 4
    assert sum(questions) >= len(turns)


def test_bad_input() -> None:
    for wrong in (
        {"split": "dev", "count": 1},
        {"split": "test", "count": 0},
        {"split": "test", "count": 1, "turns": 0},
    ):
        with pytest.raises(BadInput, match="give 1 or more for train or test"):
            dialogues.make(**wrong)  # type: ignore[arg-type]
