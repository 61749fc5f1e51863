"""Function calls as models write them: the grammar that holds a model to them, and reading them back as they come.

Knows the forms in which chat templates teach calls, as text. Knows nothing of HTTP, or of what a function does.

Sources: the templates that ship with Hermes 2 Pro, Qwen 2.5 and 3, SmolLM 3 (tags), Llama 3.1 (a bare object) and
Mistral (a list behind a token of its own).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Choice = str  # "auto", "required", or the name of the one function


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. parameters: JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class CallForm:
    """before, after: what a call stands between. key: what its arguments are called. marker: a special token before
    it, which is no text. anywhere: whether text may come first."""

    before: str
    after: str
    key: str = "arguments"
    marker: str = ""
    anywhere: bool = False

    @property
    def opening(self) -> str:
        """What every call begins with."""
        return self.before + '{"name": '


TAGS = CallForm("<tool_call>\n", "\n</tool_call>", anywhere=True)
BARE = CallForm("", "", key="parameters")
MARKED = CallForm("[", "]", marker="[TOOL_CALLS]")


def form_of(template: str) -> CallForm:
    """The form that a chat template teaches; tags where it teaches none."""
    if "<tool_call>" not in template and MARKED.marker in template:
        return MARKED
    if "<tool_call>" not in template and '"parameters": ' in template:
        return BARE
    return TAGS


def teaching(tools: Sequence[Tool]) -> str:
    """What to tell a model of tools where its template does not."""
    listed = "\n".join(json.dumps(tool.to_json(), ensure_ascii=False) for tool in tools)
    return (
        f"You can call these functions:\n{listed}\nTo call one, write exactly:\n{TAGS.before}"
        f'{{"name": "the function", "arguments": {{its arguments}}}}{TAGS.after}'
    )


def call_grammar(
    form: CallForm, tools: Sequence[Tool], choice: Choice, *, several: bool = True, marker: int | None = None
) -> str:
    """The grammar of an answer with calls, for `Grammars.lark`. several: whether more than one may come. marker: the
    id of the form's special token, where the tokenizer has it."""
    if choice not in ("auto", "required"):
        tools, several = [tool for tool in tools if tool.name == choice], False
    functions = " | ".join(f"f{number}" for number in range(len(tools)))
    special = "" if marker is None else f"<[{marker}]>"
    head, auto = f"{special} {_literal(form.before)}", choice == "auto"
    if (
        auto and form.anywhere
    ):  # a lazy rule ends where its text is seen, and the call is held to its form from there
        tag, _, left = form.before.partition("\n")
        rules = [
            f"head[lazy]: TEXT {_literal(tag)}",
            r"TEXT: /(.|\n)*/",
            f"start: call{'*' if several else '?'} TEXT",
        ]
        head = f"head {_literal(chr(10) + left)}"
    elif auto:
        other = r"(.|\n)*" if special else r"([^{\[](.|\n)*)?"
        rules = [f"OTHER: /{other}/", "start: call | OTHER"]
    else:
        rules = ['start: call ("\\n" call)*' if several and form.anywhere else "start: call"]
    rules.append(f"call: {head} ({functions}) {_literal(form.after)}")
    for number, tool in enumerate(tools):
        named = _literal(f'{{"name": {json.dumps(tool.name)}, "{form.key}": ')
        schema = {"type": "object"} | dict(tool.parameters) | {"x-guidance": {"whitespace_flexible": False}}
        rules += [f'f{number}: {named} a{number} "}}"', f"a{number}: %json {json.dumps(schema)}"]
    return "%llguidance {}\n" + "\n".join(rules) + "\n"


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


@dataclass(frozen=True)
class Said:
    """Text beside calls."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call begins: the number-th of its answer."""

    number: int
    name: str


@dataclass(frozen=True)
class Argued:
    """A part of the JSON of a call's arguments."""

    number: int
    text: str


Event = Said | Called | Argued


class CallReader:
    """Reads the text of one answer, piece by piece."""

    def __init__(self, form: CallForm) -> None:
        self._form, self._held = form, ""
        self._state: Callable[[], list[Event]] = self._text
        self._name = re.compile(rf'("(?:[^"\\]|\\.)*"), "{form.key}": ')
        self._depth, self._quoted, self._escaped = 0, False, False
        self.calls = 0

    def add(self, text: str) -> list[Event]:
        """What is certain now."""
        self._held += text
        events: list[Event] = []
        while True:
            before = (self._state, len(self._held))
            events += self._state()
            if (self._state, len(self._held)) == before:
                return events

    def rest(self) -> list[Event]:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return [Said(held)] if self._state == self._text and held.strip() else []

    def _text(self) -> list[Event]:
        opening, held = self._form.opening, self._held
        at = held.find(opening)
        if at == 0 or (at > 0 and self._form.anywhere):
            self._held, self._state = held[at + len(opening) :], self._named
            return [Said(held[:at])] if held[:at].strip() else []
        if not self._form.anywhere and not opening.startswith(held):
            self._state = self._plain
            return []
        kept = next((size for size in range(len(opening), 0, -1) if held.endswith(opening[:size])), 0)
        said, waiting = held[: len(held) - kept], held[len(held) - kept :]
        if not said.strip():  # blanks alone are said only if more follows
            return []
        self._held = waiting
        return [Said(said)]

    def _plain(self) -> list[Event]:
        held, self._held = self._held, ""
        return [Said(held)] if held else []

    def _named(self) -> list[Event]:
        found = self._name.match(self._held)
        if not found:
            return []
        self._held, self._state, self._depth = self._held[found.end() :], self._arguments, 0
        self.calls += 1
        return [Called(self.calls - 1, json.loads(found[1]))]

    def _arguments(self) -> list[Event]:
        size = 0
        for letter in self._held:
            size += 1
            if self._quoted:
                self._quoted = self._escaped or letter != '"'
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if not self._depth:
                    self._state = self._after
                    break
        part, self._held = self._held[:size], self._held[size:]
        return [Argued(self.calls - 1, part)] if part else []

    def _after(self) -> list[Event]:
        closing = "}" + self._form.after
        if self._held.startswith(closing):
            self._held, self._state = self._held[len(closing) :], self._text
        return []
