"""Search is held to brute force over the passages, and an updated index to one built anew."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ondevice.apps.search import Index
from ondevice.data.documents import passages, text_files
from ondevice.errors import BadInput

WORDS = ["apple", "boat", "cloud", "door", "engine", "forest", "glass", "harbour"]


class Embedder:
    """Counts of hashed words: no model, but near where words are shared. Remembers what it was asked."""

    def __init__(self, dimension: int = 64) -> None:
        self.dimension, self.asked = dimension, list[str]()

    def __call__(self, texts: list[str]) -> Any:
        self.asked += texts
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.strip(".").encode()) % self.dimension] += 1
        return vectors


def index_of(folder: Path, embed: Any = None, model: str = "words") -> Index:
    return Index(folder, folder.parent / "index.safetensors", embed or Embedder(), model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    (docs / "inner").mkdir(parents=True)
    (docs / "a.md").write_text("# Boats\n\nA boat in the harbour.\n\n# Doors\n\nA door of glass.\n")
    (docs / "inner" / "b.txt").write_text("An engine in the forest.\n\nA cloud.\n")
    (docs / "c.py").write_text('def f():\n    """Open the door of the boat."""\n')
    return docs


def test_results_are_those_of_brute_force(folder: Path) -> None:
    embed = Embedder()
    index = index_of(folder, embed)
    rows = [(path, found) for path in text_files(folder) for found in passages(path)]
    vectors = embed([found.text for _, found in rows]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for query in ("a boat", "door of glass", "the forest cloud"):
        vector = embed([query])[0] / np.linalg.norm(embed([query])[0])
        expected = sorted(range(len(rows)), key=lambda row: -round(float(vectors[row] @ vector), 6))
        hits = index.search(query, k=3)
        assert [(hit.path, hit.line, hit.text) for hit in hits] == [
            (rows[row][0], rows[row][1].line, rows[row][1].text) for row in expected[:3]
        ]
        np.testing.assert_allclose([hit.score for hit in hits], vectors[expected[:3]] @ vector, atol=1e-6)
    assert len(index.search("boat", k=100)) == len(rows)


def test_a_second_process_reads_the_store_and_embeds_only_the_query(folder: Path) -> None:
    first = index_of(folder)
    done = first.refresh()
    assert (done.files, done.passages, done.embedded, done.removed, done.notice) == (3, 4, 3, 0, "")
    again = Embedder()
    second = index_of(folder, again)
    assert second.refresh().embedded == 0
    assert second.search("a boat") == first.search("a boat")
    assert again.asked == ["a boat"]


def test_only_what_changed_is_read_anew(folder: Path) -> None:
    index_of(folder).refresh()
    (folder / "inner" / "b.txt").write_text("A whale.")
    (folder / "c.py").unlink()
    (folder / "new.rst").write_text("Sky\n===\n\nA star.\n")
    os.utime(folder / "a.md", ns=(1, 1))  # touched, not changed
    embed = Embedder()
    index = index_of(folder, embed)
    done = index.refresh()
    assert embed.asked == ["Sky\nA star.", "A whale."]
    assert (done.files, done.embedded, done.removed) == (3, 2, 1)
    assert index.search("whale")[0].text == "A whale."
    assert not any("Open the door" in hit.text for hit in index.search("door", k=10))


def test_a_change_of_the_same_size_within_one_tick_is_seen(folder: Path) -> None:
    index_of(folder).refresh()
    stat = (folder / "c.py").stat()
    (folder / "c.py").write_text('def f():\n    """Shut the door of the boat."""\n')
    os.utime(folder / "c.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    index = index_of(folder)
    index.refresh()
    assert any("Shut the door" in hit.text for hit in index.search("door", k=10))


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
edits = st.lists(
    st.tuples(st.sampled_from(["a.txt", "b.md", "d/c.txt"]), words | st.none()), min_size=1, max_size=6
)


@settings(max_examples=40, deadline=None)
@given(st.lists(edits, min_size=1, max_size=4))
def test_an_updated_index_equals_one_built_anew(
    tmp_path_factory: pytest.TempPathFactory, rounds: Any
) -> None:
    root = tmp_path_factory.mktemp("property")
    folder = root / "docs"
    (folder / "d").mkdir(parents=True)
    (folder / "always.txt").write_text("apple")
    for round_ in rounds:
        for name, text in round_:
            (folder / name).unlink(missing_ok=True)
            if text is not None:
                (folder / name).write_text(text)
        kept = index_of(folder)
        kept.refresh()
        anew = Index(folder, root / "other.safetensors", Embedder(), "words")
        anew.store.unlink(missing_ok=True)
        assert kept.search("apple boat", k=20) == anew.search("apple boat", k=20)


def test_an_index_of_another_model_is_built_anew_and_says_so(folder: Path) -> None:
    index_of(folder).refresh()
    embed = Embedder(32)
    index = index_of(folder, embed, model="other")
    assert "another model" in index.refresh().notice
    assert len(embed.asked) == 4
    assert index_of(folder, Embedder(32), model="other").refresh().notice == ""
    (folder / "c.py").write_text('"""A changed one."""')
    assert "size" in index_of(folder, Embedder(16), model="other").refresh().notice


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_index_is_built_anew(folder: Path, data: st.DataObject) -> None:
    index = index_of(folder)
    index.store.unlink(missing_ok=True)
    expected = index.search("boat of glass", k=4)
    whole = index.store.read_bytes()
    if data.draw(st.booleans()):
        index.store.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
        index.store.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
    assert index_of(folder).search("boat of glass", k=4) == expected


def test_a_full_disk_leaves_the_old_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of(folder)
    index.refresh()
    before = index.store.read_bytes()
    (folder / "new.txt").write_text("more")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        index_of(folder).refresh()
    assert index.store.read_bytes() == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["docs", "index.safetensors"]


def test_files_that_are_not_text_are_skipped_by_name(folder: Path) -> None:
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    (folder / "empty.txt").write_text(" \n")
    done = index_of(folder).refresh()
    assert len(done.skipped) == 2
    assert "bad.txt is not UTF-8" in done.skipped[0]
    assert (done.files, done.passages) == (4, 4)


@pytest.mark.parametrize(
    "query, k, message", [("", 5, "empty"), (" \n", 5, "empty"), ("boat", 0, "at least one")]
)
def test_bad_queries_are_refused(folder: Path, query: str, k: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        index_of(folder).search(query, k)


def test_folders_with_nothing_to_search_are_refused(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    with pytest.raises(BadInput, match="no text that can be searched"):
        index_of(tmp_path / "docs").refresh()
    with pytest.raises(BadInput, match="not a folder"):
        index_of(tmp_path / "missing").refresh()
    assert not (tmp_path / "index.safetensors").exists()


def test_a_model_that_gives_nonsense_is_named(folder: Path) -> None:
    for broken in (
        lambda texts: np.full((len(texts), 3), np.nan),
        lambda texts: np.ones((1, 3)),
        lambda texts: 3,
    ):
        with pytest.raises(BadInput, match="the model gave"):
            index_of(folder, broken).refresh()


def test_progress_reaches_its_end(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    index_of(folder).refresh(lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys, ondevice.apps.search; assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
