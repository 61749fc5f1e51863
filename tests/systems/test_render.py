"""The committed pages are what the committed results give."""

from __future__ import annotations

import pytest

from ondevice.systems import registry, render


def test_committed_pages_are_current() -> None:
    results = registry.results_folder()
    if results is None:
        pytest.skip("not an install of a repository")
    for name, text in render.pages().items():
        message = f"docs/systems/{name} is stale; run ondevice.systems.render.write_pages()"
        assert (results.parent / name).read_text(encoding="utf-8") == text, message


def test_the_index_lists_every_system() -> None:
    index = render.pages()["index.md"]
    assert all(entry.title in index for entry in registry.catalogue().values())
    assert index.count("\n| ") == 119 + 2 * 7
