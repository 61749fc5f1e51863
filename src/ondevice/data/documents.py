"""Text files become passages: paragraphs under their headings, docstrings under their names.

Knows .txt, .md, .rst and .py files. Knows nothing of models, tokens or queries: sizes are in characters.
"""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ondevice.errors import BadInput

SUFFIXES = (".txt", ".md", ".rst", ".py")

_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*$")
_FENCE = re.compile(r"\s*(```|~~~)")
_OWNERS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Where a paragraph that is too long may be cut, best first: a line, a sentence, a clause, a word.
_CUTS = ("\n", ". ", "; ", ", ", " ")


@dataclass(frozen=True)
class Passage:
    """A piece of a file that is read by itself. line: where it starts, counted from 1."""

    line: int
    text: str


@dataclass(frozen=True)
class Docstring:
    """A docstring, unindented. name: qualified, "" for the module itself. line: of the definition."""

    name: str
    line: int
    text: str


def text_files(folder: Path) -> list[Path]:
    """The text files under a folder, in a fixed order; hidden folders and links to folders are left out."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        found += [Path(root, name) for name in sorted(files) if name.lower().endswith(SUFFIXES)]
    return found


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, line ends as \\n. Raises BadInput if it is not UTF-8 or cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); "
            "convert it, e.g. with iconv -t utf-8, or leave it out"
        ) from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def passages(path: Path, size: int = 800) -> list[Passage]:
    """The passages of a text file, each of about at most `size` characters and under one heading.

    Raises BadInput if the file is not UTF-8.
    """
    text = read_text(path)
    if path.suffix.lower() == ".py":
        try:
            return [
                Passage(found.line, piece)
                for found in docstrings(text)
                for _, piece in _pack(found.name, [(0, found.text)], size)
            ]
        except (SyntaxError, ValueError, RecursionError):  # not the Python of this interpreter: prose then
            pass
    return [
        Passage(line, piece)
        for heading, blocks in _sections(text)
        for line, piece in _pack(heading, blocks, size)
    ]


def docstrings(source: str | bytes) -> list[Docstring]:
    """The docstrings of Python source, in its order; nothing is imported or run. Raises SyntaxError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's source
        tree = ast.parse(source)
    found: list[Docstring] = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, _OWNERS) and (text := ast.get_docstring(node)):
            found.append(Docstring(name, getattr(node, "lineno", 1), text))
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):  # no definition stands in an expression, and some are deep
                inner = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
                visit(child, f"{name}.{inner}".strip(".") if inner else name)

    visit(tree, "")
    return found


def _sections(text: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(heading, [(line, paragraph)]) of Markdown, reStructuredText or plain text."""
    lines = text.split("\n")
    heading, blocks, block, start, fenced = "", list[tuple[int, str]](), list[str](), 1, False

    def close() -> None:
        if any(line.strip() for line in block):
            blocks.append((start, "\n".join(block)))
        block.clear()

    underline = False
    for number, line in enumerate(lines, 1):
        if underline:
            underline = False
            continue
        title = ""
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and re.match(r"#{1,6}\s+\S", line):
            title = line.lstrip("#").strip()
        elif not fenced and not block and _is_underlined(line, lines[number] if number < len(lines) else ""):
            title, underline = line.strip(), True
        if title:
            close()
            if heading or blocks:
                yield heading, blocks
            heading, blocks = title, [(number, "")]
        elif line.strip() or fenced:
            start = start if block else number
            block.append(line.rstrip())
        else:
            close()
    close()
    yield heading, blocks


def _is_underlined(line: str, below: str) -> bool:
    title, rule = line.strip(), below.strip()
    return bool(title and _UNDERLINE.match(rule) and len(rule) >= len(title) and not _UNDERLINE.match(title))


def _pack(heading: str, blocks: list[tuple[int, str]], size: int) -> Iterator[tuple[int, str]]:
    """(line, text) of pieces that start with the heading and hold whole paragraphs as far as they fit."""
    room = max(size - len(heading), size // 2)
    line, held = 0, ""
    for at, block in blocks:
        for offset, piece in _cut(block.strip("\n"), room):
            if held and len(held) + len(piece) > room:
                yield line, _under(heading, held)
                held = ""
            line = line if held else at + offset
            held = f"{held}\n\n{piece}" if held else piece
    if held:
        yield line, _under(heading, held)


def _cut(paragraph: str, size: int) -> Iterator[tuple[int, str]]:
    """(lines before it, piece) of a paragraph, cut where it hurts least."""
    offset = 0
    while len(paragraph) > size:
        ends = (paragraph.rfind(cut, size // 2, size) + len(cut) for cut in _CUTS)
        end = next((end for end, cut in zip(ends, _CUTS, strict=True) if end >= len(cut)), size)
        if paragraph[:end].strip():
            yield offset, paragraph[:end].strip()
        offset += paragraph.count("\n", 0, end)
        paragraph = paragraph[end:]
    if paragraph.strip():
        yield offset, paragraph.strip()


def _under(heading: str, text: str) -> str:
    return f"{heading}\n{text}" if heading else text
