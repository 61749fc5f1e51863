from __future__ import annotations

import inspect
import statistics
import textwrap
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.data.documents import docstrings, passages, read_text, text_files
from ondevice.errors import BadInput

MARKDOWN = """Before any heading.

# Install

Run the installer.

```
# not a heading

make
```

## On Debian

Use apt.
"""


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("module", [statistics, textwrap])
def test_docstrings_are_those_that_inspect_finds(module: ModuleType) -> None:
    source = inspect.getsource(module)
    found = docstrings(source)
    assert found[0].text == inspect.getdoc(module)
    for each in found[1:]:
        assert each.text == inspect.getdoc(attrgetter(each.name)(module))
        assert source.split("\n")[each.line - 1].strip().startswith(("def", "class"))
    functions = {
        n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__
    }
    assert {name for name in functions if getattr(module, name).__doc__} <= {each.name for each in found}


def test_markdown_is_cut_at_its_headings(tmp_path: Path) -> None:
    found = passages(write(tmp_path, "a.md", MARKDOWN))
    assert [(p.line, p.text) for p in found] == [
        (1, "Before any heading."),
        (5, "Install\nRun the installer.\n\n```\n# not a heading\n\nmake\n```"),
        (15, "On Debian\nUse apt."),
    ]


def test_restructured_text_is_cut_at_underlined_titles(tmp_path: Path) -> None:
    found = passages(
        write(
            tmp_path, "a.rst", "Title\n=====\n\nOne.\n\nPart two\n--------\nTwo.\n\n====\n\nlong line\n--\n"
        )
    )
    assert [(p.line, p.text) for p in found] == [
        (4, "Title\nOne."),
        (8, "Part two\nTwo.\n\n====\n\nlong line\n--"),
    ]


def test_python_is_cut_at_its_docstrings_and_broken_python_is_prose(tmp_path: Path) -> None:
    found = passages(
        write(
            tmp_path,
            "a.py",
            '"""Module."""\nclass A:\n    """A thing."""\n    async def b(self):\n        "Does."\n',
        )
    )
    assert [(p.line, p.text) for p in found] == [(1, "Module."), (2, "A\nA thing."), (4, "A.b\nDoes.")]
    assert passages(write(tmp_path, "b.py", "print 'old'\n"))[0].text == "print 'old'"


@given(
    st.text(st.characters(categories=["L", "N", "P", "Z", "Cc"], exclude_characters="#`~\r"), max_size=400),
    st.integers(8, 60),
)
def test_no_text_is_lost_and_no_piece_is_longer_than_asked(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "property.txt"
    path.write_text("x\n\n" + text, encoding="utf-8", newline="")  # the x keeps rules from being titles
    found = passages(path, size)
    if not any(
        p.text.count("\n") and set(p.text) & set("=-^\"'*+.:_") for p in found
    ):  # no underlined titles
        assert "".join("".join(p.text for p in found).split()) == "".join(path.read_text().split())
        assert all(len(p.text) <= size + 2 for p in found)
    assert all(p.text.strip() for p in found)
    assert [p.line for p in found] == sorted(p.line for p in found)


def test_lines_point_at_the_text(tmp_path: Path) -> None:
    lines = [f"line {n} has some words in it" if n % 5 else "" for n in range(1, 200)]
    for passage in passages(write(tmp_path, "a.txt", "\n".join(lines)), 90):
        assert lines[passage.line - 1].startswith(passage.text.split("\n")[0])


def test_files_come_in_order_without_hidden_ones_and_links_do_not_loop(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/data.bin", ".git/x.txt", "__pycache__/y.py", "A.RST"):
        write(tmp_path, name, "x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in text_files(tmp_path)] == ["A.RST", "b.txt", "a/z.md"]


def test_files_that_are_not_utf_8_are_named_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    with pytest.raises(BadInput, match=r"latin.txt is not UTF-8 text \(byte 3 is 0xe9\)"):
        read_text(path)
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(path) == "a\nb"
