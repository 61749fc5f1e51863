from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.data.text import Corpus, Texts, python_docs, texts
from ondevice.errors import BadInput, MissingExtra


@pytest.fixture(scope="module")
def docs() -> Corpus:
    return python_docs()


def test_the_documentation_is_large_enough_and_known_by_its_fingerprint(docs: Corpus) -> None:
    assert len(docs.calibration) + len(docs.test) >= 1500
    assert abs(len(docs.calibration) - len(docs.test)) <= 0.1 * len(docs.test)
    printed = subprocess.run(  # another process, with another hash seed
        [sys.executable, "-c", "import json; from ondevice.data.text import python_docs; "
         "import sys; assert not {'torch', 'transformers'} & set(sys.modules); "
         "print(json.dumps(python_docs().fingerprint()))"],
        capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert json.loads(printed.stdout) == docs.fingerprint()
    version = ".".join(map(str, sys.version_info[:3]))
    assert docs.test.fingerprint()["version"].startswith(f"Python {version}")


def test_the_pairs_are_what_the_docstrings_say(docs: Corpus) -> None:
    import difflib
    import logging
    import shutil

    both = dict(
        zip(docs.test.queries + docs.calibration.queries, docs.test.passages + docs.calibration.passages)
    )
    found = 0
    for module in (difflib, logging, shutil):
        for value in vars(module).values():
            whole = " ".join((getattr(value, "__doc__", None) or "").split())
            first = re.match(r"[^.]+\.(?= [A-Z])", whole)
            if callable(value) and first and first[0] in both:
                assert whole == f"{first[0]} {both[first[0]]}"
                found += 1
    assert found >= 10


def test_nothing_leaks_from_calibration_to_test(docs: Corpus) -> None:
    calibration, test = docs.calibration, docs.test
    assert not set(calibration.documents) & set(test.documents)
    everything = "\n".join(calibration.passages + test.passages).casefold()
    for query in calibration.queries + test.queries:
        assert query.rstrip(".!?").casefold() not in everything
    for field in ("queries", "passages"):
        rows = [text.casefold() for text in getattr(calibration, field) + getattr(test, field)]
        assert len(rows) == len(set(rows))
    assert all("\n" not in text and text == text.strip() for text in test.texts)


def test_the_seed_changes_the_split_and_nothing_else(docs: Corpus) -> None:
    other = python_docs(seed=1)
    assert set(other.test.queries) != set(docs.test.queries)
    assert {*other.test.queries, *other.calibration.queries} == {
        *docs.test.queries,
        *docs.calibration.queries,
    }


@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from("abcdef")), min_size=2, max_size=40),
    st.floats(0.05, 0.95), st.integers(0, 5),
)  # fmt: skip
def test_a_split_keeps_documents_whole_and_loses_no_row(
    rows: list[tuple[str, str]], fraction: float, seed: int
) -> None:
    given_texts, documents = zip(*rows, strict=True)
    whole = Texts("x", given_texts, documents=documents, labels=tuple(range(len(rows))))
    if len(set(documents)) < 2:
        with pytest.raises(BadInput, match="one document"):
            whole.split(fraction, seed)
        return
    split = whole.split(fraction, seed)
    assert len(split.calibration) > 0 < len(split.test)
    assert not set(split.calibration.documents) & set(split.test.documents)
    assert sorted(split.calibration.labels + split.test.labels) == list(range(len(rows)))
    for side in (split.calibration, split.test):
        assert all(
            rows[label] == (text, document)
            for text, document, label in zip(side.texts, side.documents, side.labels)
        )


def test_rows_of_the_same_text_stay_together() -> None:
    split = Texts("x", ("One  text", "another", "one text", "a third", "ONE TEXT")).split(0.4)
    assert (
        len(
            {
                "one text" in {t.casefold().replace("  ", " ") for t in side.texts}
                for side in (split.calibration, split.test)
            }
        )
        == 2
    )
    with pytest.raises(BadInput, match="between 0 and 1"):
        Texts("x", ("a", "b")).split(1.0)


# --- a user's own ----------------------------------------------------------------------------------------


def lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8"
    )
    return path


def test_json_lines_of_each_form(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert texts(lines(path, {"text": "a"}, "", {"text": "ü"})).texts == ("a", "ü")
    pairs = texts(lines(path, {"query": "q", "passage": "p"}, {"query": "r", "passage": "s", "more": 1}))
    assert (pairs.queries, pairs.passages, pairs.texts, len(pairs)) == (
        ("q", "r"),
        ("p", "s"),
        ("q", "r", "p", "s"),
        2,
    )
    labelled = texts(lines(path, {"text": "a", "label": 1}, {"text": "b", "label": 0}))
    assert labelled.labels == (1, 0)
    assert (
        labelled.fingerprint()
        != texts(lines(path, {"text": "a", "label": 1}, {"text": "b", "label": 1})).fingerprint()
    )


@pytest.mark.parametrize("rows, message", [
    (['{"text": "a"}', "{"], "line 2 is not JSON"),
    (["[1]"], "line 1 is not an object"),
    ([{"body": "a"}], "line 1 has body; expected text"),
    ([{"query": "a"}], "line 1 has query; expected"),
    ([{"text": "a"}, {"text": "a", "label": 1}], "line 2 has text and label, the rows before have text"),
    ([{"text": " "}], "text is ' ', not a text"),
    ([{"text": 3}], "text is 3"),
    ([{"text": "a", "label": True}], "label is True"),
    ([], "no rows"),
])  # fmt: skip
def test_bad_rows_are_named_by_line(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        texts(lines(tmp_path / "rows.jsonl", *rows))


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# H\n\none\n\n# I\n\ntwo")
    (tmp_path / "b.txt").write_text("three")
    found = texts(tmp_path)
    assert found.texts == ("H\none", "I\ntwo", "three")
    assert found.documents == ("a.md", "a.md", "b.txt")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"c\.txt is not UTF-8"):
        texts(tmp_path)


@pytest.mark.parametrize("name", ["missing.jsonl", "./missing", "/missing/folder", "a/b/c", ""])
def test_sources_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(BadInput):
        texts(name)


def test_files_of_another_kind_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.docx").write_bytes(b"PK")
    with pytest.raises(BadInput, match=r"expected \.jsonl"):
        texts(tmp_path / "x.docx")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "e.txt").write_text(" \n")
    with pytest.raises(BadInput, match="no text"):
        texts(tmp_path / "e")


def test_tables_are_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'ondevice-ml[data]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"question": "what?", "answer": "that."}, {"question": "who?", "answer": "them."}]
    folder = tmp_path / "tables"
    folder.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for source in (folder, folder / "train.parquet", tmp_path / "rows.csv", tmp_path / "rows.json"):
        found = texts(source)
        assert (found.queries, found.passages) == (("what?", "who?"), ("that.", "them."))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadInput, match=r"bad\.parquet cannot be read"):
        texts(tmp_path / "bad.parquet")


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"ondevice-ml\[data\]"):
        texts("owner/name")
