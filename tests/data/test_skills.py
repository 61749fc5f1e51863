"""Skills: every answer is right by another way of working it out; no argument is on both sides."""

from __future__ import annotations

import json
import operator
import re
from pathlib import Path

import pytest

from ondevice.data import skills
from ondevice.data.skills import SKILLS, right, rows
from ondevice.errors import BadInput


def _solve(skill: str, prompt: str) -> str:
    task, _, rest = prompt.partition(": ")
    if skill == "copy":
        return rest
    if skill == "reverse":
        return "".join(reversed(rest))
    if skill == "sort":
        counts = {digit: rest.count(digit) for digit in "0123456789"}
        return " ".join(digit for digit in "0123456789" for _ in range(counts[digit]))
    if skill == "arithmetic":
        a, sign, b = rest.split()
        return str({"+": operator.add, "-": operator.sub}[sign](int(a), int(b)))
    if skill == "lookup":
        return re.search(rf"\b{task.split()[1]} (\d+)", rest)[1]  # type: ignore[index]
    return str(json.loads(rest)[task.split()[1]])


def test_every_answer_is_right() -> None:
    samples = skills.make("train", 600)
    for row, (prompt, answer) in enumerate(
        zip(rows(samples, "prompt"), rows(samples, "answer"), strict=True)
    ):
        skill = samples.classes[samples["labels"][row]]
        if skill != "translate":
            assert _solve(skill, prompt) == answer


def test_the_toy_language_is_a_code_of_words() -> None:
    samples = skills.make("train", 500, skills=("translate",))
    meaning: dict[str, str] = {}
    for prompt, answer in zip(rows(samples, "prompt"), rows(samples, "answer"), strict=True):
        number, colour, noun, verb = prompt.partition(": ")[2].split()
        for word, foreign in zip((noun, number, colour, verb), answer.split(), strict=True):
            assert meaning.setdefault(word, foreign) == foreign
    assert len(set(meaning.values())) == len(meaning) == 28


def test_no_argument_is_on_both_sides() -> None:
    train, test = (skills.make(split, 3000) for split in ("train", "test"))
    assert not set(rows(train, "arguments")) & set(rows(test, "arguments"))
    assert not set(rows(train, "prompt")) & set(rows(test, "prompt"))
    assert set(test.classes) == set(SKILLS)


def test_same_seed_same_set_other_seed_another() -> None:
    first, again, other = (skills.make("train", 70, seed=seed).fingerprint() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_answers_are_scored() -> None:
    samples = skills.make("test", 20)
    answers = rows(samples, "answer")
    assert right(samples, [f" {answer}\n" for answer in answers]).all()
    assert right(samples, [*answers[:10], *["?"] * 10]).sum() == 10
    with pytest.raises(BadInput, match="as many"):
        right(samples, answers[:3])


def test_a_task_is_drawn() -> None:
    assert (skills.draw(skills.make("train", 1), 0)[30:] < 100).any()


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(BadInput, match="juggling"):
        skills.make("train", 4, skills=("copy", "juggling"))
    with pytest.raises(BadInput, match="1 or more"):
        skills.make("train", 0)
    with pytest.raises(BadInput, match="dev"):
        skills.make("dev", 4)


def test_scan_is_read(tmp_path: Path) -> None:
    (tmp_path / "simple_split").mkdir()
    path = tmp_path / "simple_split" / "tasks_test_simple.txt"
    path.write_text("IN: jump twice OUT: I_JUMP I_JUMP\nIN: walk OUT: I_WALK\n")
    samples = skills.read_scan(tmp_path, "test")
    assert rows(samples, "prompt") == ["jump twice", "walk"]
    assert rows(samples, "answer") == ["I_JUMP I_JUMP", "I_WALK"]
    with pytest.raises(BadInput, match="tasks_train_simple"):
        skills.read_scan(tmp_path, "train")
    path.write_text("jump twice\n")
    with pytest.raises(BadInput, match="line 1"):
        skills.read_scan(tmp_path, "test")
