"""Small tasks that a language model learns: a prompt, one right answer, and whether an answer is it.

Knows how to make and to solve each task. Knows nothing of models. A hash of a task's argument (the word, the
list, the pair of numbers, the record) puts it on one side: no argument of the test set stands in training.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.data.page import draw_page
from ondevice.data.sets import DataSet, Ragged, generator
from ondevice.errors import BadInput

VERSION = "1"

Item = tuple[str, str, str]  # prompt, answer, argument

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_NAMES = (
    "ada",
    "bob",
    "cleo",
    "dan",
    "eve",
    "finn",
    "gia",
    "hugo",
    "ida",
    "jon",
    "kim",
    "leo",
    "mia",
    "ned",
    "ola",
    "pia",
)
_FIELDS = ("age", "room", "floor", "score", "level", "year")
# A toy language: its words for ours; the noun stands before its number and its colour, the verb comes last.
_NUMBERS = {"one": "un", "two": "dos", "three": "tri", "four": "kat", "five": "lim", "six": "sek"}
_COLOURS = {"red": "ruda", "blue": "mavi", "green": "vela", "black": "nera", "white": "alba", "brown": "maro"}
_NOUNS = {
    "cat": "mito",
    "dog": "kano",
    "bird": "paru",
    "fish": "nemo",
    "horse": "tivo",
    "cow": "buro",
    "ant": "zimi",
    "bee": "fipo",
}
_VERBS = {
    "sleeps": "dor",
    "runs": "kur",
    "sings": "lal",
    "jumps": "hop",
    "eats": "nam",
    "waits": "vat",
    "swims": "plu",
    "falls": "kad",
}


def _copy(rng: np.random.Generator) -> Item:
    word = _word(rng)
    return f"copy: {word}", word, word


def _reverse(rng: np.random.Generator) -> Item:
    word = _word(rng)
    return f"reverse: {word}", word[::-1], word


def _sort(rng: np.random.Generator) -> Item:
    digits = " ".join(str(digit) for digit in rng.integers(10, size=rng.integers(3, 8)))
    return f"sort: {digits}", " ".join(sorted(digits.split())), digits


def _arithmetic(rng: np.random.Generator) -> Item:
    a, b = sorted(int(number) for number in rng.integers(100, size=2))
    return (
        (f"add: {a} + {b}", str(a + b), f"{a} {b}")
        if rng.integers(2)
        else (f"take: {b} - {a}", str(b - a), f"{a} {b}")
    )


def _lookup(rng: np.random.Generator) -> Item:
    names = [_NAMES[index] for index in rng.choice(len(_NAMES), rng.integers(2, 6), replace=False)]
    values = [str(number) for number in rng.integers(10, 100, size=len(names))]
    table = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    wanted = int(rng.integers(len(names)))
    return f"find {names[wanted]}: {table}", values[wanted], table


def _extract(rng: np.random.Generator) -> Item:
    fields = [_FIELDS[index] for index in rng.choice(len(_FIELDS), rng.integers(2, 4), replace=False)]
    record = {"name": _NAMES[rng.integers(len(_NAMES))]} | {
        field: int(rng.integers(1, 100)) for field in fields
    }
    wanted = fields[rng.integers(len(fields))]
    text = json.dumps(record)
    return f"get {wanted}: {text}", str(record[wanted]), text


def _translate(rng: np.random.Generator) -> Item:
    number, colour, noun, verb = (
        list(table)[rng.integers(len(table))] for table in (_NUMBERS, _COLOURS, _NOUNS, _VERBS)
    )
    sentence = f"{number} {colour} {noun} {verb}"
    return (
        f"translate: {sentence}",
        f"{_NOUNS[noun]} {_NUMBERS[number]} {_COLOURS[colour]} {_VERBS[verb]}",
        sentence,
    )


SKILLS: dict[str, Callable[[np.random.Generator], Item]] = {
    "copy": _copy, "reverse": _reverse, "sort": _sort, "arithmetic": _arithmetic, "lookup": _lookup,
    "extract": _extract, "translate": _translate,
}  # fmt: skip


def make(split: str, count: int, *, seed: int = 0, skills: Sequence[str] = tuple(SKILLS)) -> DataSet:
    """Tasks, the skills in equal parts and mixed.

    Arrays: prompt and answer uint8 (UTF-8, of unequal length), arguments uint8 likewise (what decided the side),
    labels (the skill). Raises BadInput for an unknown skill.
    """
    rng = generator("skills", split, seed)
    if count < 1:
        raise BadInput(f"{count} tasks are none; ask for 1 or more")
    if not skills or set(skills) - set(SKILLS):
        raise BadInput(
            f"skills {', '.join(sorted(set(skills) - set(SKILLS))) or '()'}: there are {', '.join(SKILLS)}"
        )
    labels = rng.permutation(np.arange(count) % len(skills))
    items = [_drawn(SKILLS[skills[label]], rng, split) for label in labels]
    arrays = {
        name: Ragged.of(np.frombuffer(item[part].encode(), np.uint8) for item in items)
        for part, name in enumerate(("prompt", "answer", "arguments"))
    }
    return DataSet("skills", split, arrays | {"labels": labels.astype(np.int64)}, tuple(skills), {}, VERSION)


def right(samples: DataSet, answers: Sequence[str]) -> npt.NDArray[np.float64]:
    """1 for each answer that is the right one, white space at its ends aside, else 0; (tasks,)."""
    if len(answers) != len(samples):
        raise BadInput(f"{len(samples)} tasks need as many answers, not {len(answers)}")
    return np.array([float(truth == given.strip()) for truth, given in zip(rows(samples, "answer"), answers)])


def rows(samples: DataSet, name: str) -> list[str]:
    """An array of texts as strings."""
    array = samples.ragged(name)
    return [array[row].tobytes().decode() for row in range(len(array))]


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The prompt and its answer."""
    label = int(samples["labels"][row])
    prompt, answer = (samples.ragged(name)[row].tobytes().decode() for name in ("prompt", "answer"))
    return draw_page(samples.classes[label], f"{prompt}\n\n    -> {answer}", label, lines=6)


def read_scan(folder: str | Path, split: str = "train") -> DataSet:
    """SCAN's simple split (Lake and Baroni 2018) as it is distributed: tasks_train_simple.txt and
    tasks_test_simple.txt in the folder or in its folder simple_split.

    The arrays of `make`; the one skill is "scan". Raises BadInput where the file is missing or not SCAN's.
    """
    folder = Path(folder)
    name = f"tasks_{split}_simple.txt"
    path = next((p for p in (folder / name, folder / "simple_split" / name) if p.is_file()), None)
    if path is None:
        raise BadInput(f"{folder} has no {name}; clone the SCAN repository there")
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = re.fullmatch(r"IN: (.+) OUT: (.+)", line.strip())
        if found is None:
            raise BadInput(
                f"{path}, line {number} is not 'IN: ... OUT: ...'; clone the SCAN repository again"
            )
        items.append((found[1], found[2], found[1]))
    if not items:
        raise BadInput(f"{path} is empty; clone the SCAN repository again")
    arrays = {
        name: Ragged.of(np.frombuffer(item[part].encode(), np.uint8) for item in items)
        for part, name in enumerate(("prompt", "answer", "arguments"))
    }
    return DataSet(
        "scan", split, arrays | {"labels": np.zeros(len(items), np.int64)}, ("scan",), {}, path.name
    )


def _drawn(task: Callable[[np.random.Generator], Item], rng: np.random.Generator, split: str) -> Item:
    while True:
        item = task(rng)
        # a quarter of all arguments is for testing
        if (hashlib.sha256(item[2].encode()).digest()[0] < 64) == (split == "test"):
            return item


def _word(rng: np.random.Generator) -> str:
    return "".join(_LETTERS[index] for index in rng.integers(len(_LETTERS), size=rng.integers(3, 9)))
