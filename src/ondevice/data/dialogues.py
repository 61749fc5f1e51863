"""Made conversations about people and what they own, with small tasks on the way whose right answers are known.

Knows how to make a conversation, which task each message calls for, and how each task is put to a model: after the
conversation (suffix), before it (prefix), as yes-or-no questions or as one choice. Knows nothing of models.

A hash of a person and a thing puts the pair on one side: no pair of the test conversations stands in training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ondevice.errors import BadInput

Split = Literal["train", "test"]
Style = Literal["suffix", "prefix"]

PEOPLE = {
    "bob": "his",
    "dan": "his",
    "hugo": "his",
    "leo": "his",
    "ada": "her",
    "eve": "her",
    "mia": "her",
    "pia": "her",
}
THINGS = ("book", "key", "box", "file", "table", "tree", "ring", "map", "window", "machine")
COLOURS = ("red", "blue", "green", "black", "white", "gray")
_ONES = ("", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
TASKS = {
    "rewrite": "say the last message without his or her",
    "digits": "write the number of the last message in digits",
    "summary": "list what was said of this person",
    "topic": "is the last message about another person",
}
NONE = "none"
QUESTIONS = {
    "any": "does the last message need a task",
    "rewrite": "does the last message ask with his or her",
    "digits": "does the last message have a number",
    "summary": "does the last message ask for a list",
    "topic": "does the last message go on to another person",
}
LETTERS = "abcde"


@dataclass(frozen=True)
class Turn:
    """A message of the user. history: the conversation up to it, the message itself at the end. need: the task that it
    calls for, or `NONE`. answers: the right answer to every task that makes sense here."""

    history: str
    need: str
    answers: dict[str, str]
    reply: str


@dataclass(frozen=True)
class Item:
    """What a model reads, and what it should go on with."""

    prompt: str
    answer: str


def make(split: Split, count: int, *, turns: int = 12, seed: int = 0) -> list[list[Turn]]:
    """Conversations, the user's turns of each. The same seed gives the same. Raises BadInput for no turns."""
    if count < 1 or turns < 1 or split not in ("train", "test"):
        raise BadInput(
            f"{count} conversations of {turns} turns for {split!r}: give 1 or more for train or test"
        )
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    return [_conversation(rng, split, turns) for _ in range(count)]


def instruction(task: str) -> str:
    """That follows a conversation."""
    return f"\n# {TASKS[task]} ?\n="


def question(name: str) -> str:
    """A yes-or-no question that follows a conversation."""
    return f"\n# {QUESTIONS[name]} ?\n="


def choice(order: Sequence[str]) -> str:
    """One question for all tasks, in this order, that follows a conversation."""
    options = " , ".join(f"{letter} {name}" for letter, name in zip(LETTERS, order))
    return f"\n# which task : {options} ?\n="


def posed(turn: Turn, task: str, style: Style) -> str:
    """A task put after the conversation, or before it."""
    if style == "suffix":
        return turn.history + instruction(task)
    return f"# {TASKS[task]} ?\n{turn.history}\n="


def items(turns: Sequence[Turn], rng: np.random.Generator) -> list[Item]:
    """What is learned from a conversation: as many tasks in either style, as many choices as yes-or-no questions."""
    found = []
    for turn in turns:
        task = str(rng.choice(list(turn.answers)))
        found += [
            Item(posed(turn, task, style), f" {turn.answers[task]}\n") for style in ("suffix", "prefix")
        ]
        order = [str(name) for name in rng.permutation([*TASKS, NONE])]
        found.append(Item(turn.history + choice(order), f" {LETTERS[order.index(turn.need)]}\n"))
        name = str(rng.choice(["any", *TASKS, *([turn.need] * 2 if turn.need != NONE else [])]))
        yes = turn.need != NONE if name == "any" else turn.need == name
        found.append(Item(turn.history + question(name), " yes\n" if yes else " no\n"))
    return found


def _conversation(rng: np.random.Generator, split: Split, turns: int) -> list[Turn]:
    found, history = list[Turn](), ""
    person, owned = _person(rng), list[tuple[str, str]]()
    fresh = True
    for _ in range(turns):
        kind = "shift" if fresh else str(rng.choice(["fact", "ask", "rewrite", "digits", "summary", "shift"]))
        full = len(owned) > 3 or not _left(split, person, owned)
        if kind in ("fact", "ask", "rewrite", "summary") and (not owned or (kind == "fact" and full)):
            kind = "digits"
        answers, need, reply = {"topic": "no"}, NONE, "ok"
        if kind == "shift":
            if not fresh:
                person = _person(rng, person)
                answers["topic"], need = "yes", "topic"
            owned = []
            fresh = False
        if kind in ("shift", "fact"):
            thing, colour = str(rng.choice(_left(split, person, owned))), str(rng.choice(COLOURS))
            owned.append((colour, thing))
            message = f"{person} has a {colour} {thing}"
        elif kind in ("ask", "rewrite"):
            colour, thing = owned[int(rng.integers(len(owned)))]
            whole = f"what colour is the {thing} of {person}"
            message, reply = whole if kind == "ask" else f"what colour is {PEOPLE[person]} {thing}", colour
            answers["rewrite"] = whole
            need = NONE if kind == "ask" else "rewrite"
        elif kind == "digits":
            number = int(rng.integers(20, 100))
            words = f"{_TENS[number // 10]} {_ONES[number % 10]}".strip()
            message, need = f"{person} has {words} coins", "digits"
            answers["digits"] = str(number)
        else:
            message, need = f"what does {person} have", "summary"
            reply = _listed(owned)
        if owned:
            answers["summary"] = _listed(owned)
        history += f"\n> {message}"
        found.append(Turn(history, need, answers, reply))
        history += f"\n< {reply}"
    return found


def _person(rng: np.random.Generator, but: str = "") -> str:
    return str(rng.choice([name for name in PEOPLE if name != but]))


def _left(split: Split, person: str, owned: Sequence[tuple[str, str]]) -> list[str]:
    """Things of this side that the person does not have yet."""
    there = {thing for _, thing in owned}
    return [thing for thing in THINGS if thing not in there and _side(person, thing) == split]


def _side(person: str, thing: str) -> Split:
    return "test" if hashlib.sha256(f"{person} {thing}".encode()).digest()[0] % 3 == 0 else "train"


def _listed(owned: Sequence[tuple[str, str]]) -> str:
    return " , ".join(f"{colour} {thing}" for colour, thing in owned)
