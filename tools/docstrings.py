"""Lets MkDocs show the docstrings of ondevice: a line that starts with "name: " becomes an item of a list.

Knows Griffe's objects and the house form of docstrings. Knows nothing of what they say.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from griffe import Extension, Object

_FIELD = re.compile(r"(?P<names>[a-z_][\w@]*(?:, [a-z_]\w*)*): (?P<text>\S.*)")
_OWN_LINE = re.compile(r"(?:Raises|Sources?|Stored as) ?:? ?\S")


class Fields(Extension):
    """Rewrites every docstring as it is collected."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring with its fields as a Markdown list; the lines that explain a field go with it."""
    lines: list[str] = []
    within: Literal["text", "field", "table"] = "text"
    for line in docstring.splitlines():
        before = within
        if field := _FIELD.fullmatch(line):
            within, line = "field", f"- `{field['names']}`: {field['text']}"
        elif not line or (before == "field" and _OWN_LINE.match(line)):
            within = "text"
        elif before == "field":  # indented or not, it goes on
            line = line.strip()
        else:  # an indented line is of a table or of code, and shown as it is
            within = "table" if line.startswith("    ") else "text"
        if line and within != before:
            lines.append("")
        # axes, as in [rows][columns], are no link
        lines.append(line if within == "table" else line.replace("][", "]\\["))
    return "\n".join(lines)
