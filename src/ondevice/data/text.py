"""Texts to calibrate and test with: the running Python's own documentation, or what a user brings.

Knows where texts come from and how to split them without a leak. Knows nothing of models. Nothing is shipped:
the documentation is read where Python is installed, and a result records its version, count and hash.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.data.documents import SUFFIXES, docstrings, passages, text_files
from ondevice.errors import BadInput, MissingExtra

# What a row may call its fields, the documented name first.
_FIELDS = {
    "query": ("query", "question", "anchor"),
    "passage": ("passage", "positive", "answer", "context", "document"),
    "text": ("text", "sentence", "content"),
    "label": ("label",),
}
_TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".json": "json"}

# Not documentation, not the standard library, or packaged apart by Debian (so that the set does not depend
# on what else is installed).
_LEFT_OUT = {
    "test", "tests", "idlelib", "turtledemo", "lib2to3", "distutils", "tkinter", "ensurepip", "pydoc_data",
    "site-packages", "dist-packages", "lib-dynload", "sitecustomize", "usercustomize",
}  # fmt: skip


@dataclass(frozen=True)
class Texts:
    """Rows of text: plain texts, labelled texts, or pairs of a query and the passage that answers it.

    texts: every text, for calibration; of pairs, the queries and then the passages. queries, passages: (n,)
    each, or empty. labels: (n,) or empty. documents: the document of each row; a split keeps it whole.
    name, version: for the record.
    """

    name: str
    texts: tuple[str, ...]
    queries: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    labels: tuple[int | str, ...] = ()
    documents: tuple[str, ...] = ()
    version: str = ""

    @classmethod
    def pairs(
        cls, name: str, rows: Iterable[tuple[str, str]], documents: Iterable[str] = (), version: str = ""
    ) -> Texts:
        """Texts of (query, passage) rows."""
        queries, passages = zip(*rows, strict=True)
        return cls(name, queries + passages, queries, passages, (), tuple(documents), version)

    def __len__(self) -> int:
        """Number of rows: pairs count once."""
        return len(self.queries or self.texts)

    def fingerprint(self) -> dict[str, str | int]:
        """What a result records of its data: {"name", "version", "count", "sha256"}."""
        content = json.dumps([self.texts, len(self.queries), self.labels], ensure_ascii=False)
        digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return {"name": self.name, "version": self.version, "count": len(self), "sha256": digest}

    def take(self, rows: Iterable[int]) -> Texts:
        """These rows, in this order."""
        rows = list(rows)

        def of(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows) if values else ()

        documents = of(self.documents)
        if self.queries:
            pairs = zip(of(self.queries), of(self.passages), strict=True)
            return Texts.pairs(self.name, pairs, documents, self.version)
        return Texts(self.name, of(self.texts), (), (), of(self.labels), documents, self.version)

    def split(self, fraction: float = 0.5, seed: int = 0) -> Corpus:
        """About `fraction` of the rows for calibration, the rest for testing, no document on both sides.

        A row without a document is one by itself, together with all rows of the same text. The order of the
        documents is that of a hash, so that one more document does not move the others. Raises BadInput
        unless 0 < fraction < 1 and there are two documents.
        """
        if not 0 < fraction < 1:
            raise BadInput(f"fraction {fraction} leaves one side empty; give one between 0 and 1")
        groups: dict[str, list[int]] = {}
        for row, key in enumerate(self.documents or self.passages or self.texts):
            groups.setdefault(key if self.documents else " ".join(key.split()).casefold(), []).append(row)
        if len(groups) < 2:
            raise BadInput(f"{self.name} is one document, so nothing is left to test on; give two or more")
        order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
        chosen, wanted = list[int](), fraction * len(self)
        for key in order[:-1]:
            # Take a document if that brings the count nearer to what is wanted; the first always.
            if not chosen or abs(len(chosen) + len(groups[key]) - wanted) < abs(len(chosen) - wanted):
                chosen += groups[key]
        held = set(chosen)
        return Corpus(self.take(sorted(held)), self.take(row for row in range(len(self)) if row not in held))


@dataclass(frozen=True)
class Corpus:
    """What a fit consumes: texts to calibrate on, and others that it is judged by."""

    calibration: Texts
    test: Texts

    def fingerprint(self) -> dict[str, dict[str, str | int]]:
        """The fingerprints of both sides."""
        return {"calibration": self.calibration.fingerprint(), "test": self.test.fingerprint()}


def python_docs(seed: int = 0) -> Corpus:
    """The documentation in the running Python's standard library as a retrieval set, half for calibration.

    Query: the first sentence of a docstring; passage: the rest of it. Read from the source files, which are
    parsed and never imported (3 to 5 seconds). Calibration and test share no top-level module, no query and
    no passage, and no query stands word for word in any passage. Raises BadInput if Python came without
    its sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    rows: dict[str, tuple[str, str, str]] = {}
    seen: set[str] = set()
    for path in text_files(library):
        parts = path.relative_to(library).with_suffix("").parts
        if (
            path.suffix != ".py"
            or not _LEFT_OUT.isdisjoint(parts)
            or parts[0].startswith(("_sysconfig", "config-"))
        ):
            continue
        # _pydecimal documents decimal, _collections_abc collections: one document, or the split would leak.
        document = re.sub(r"^_(py)?", "", parts[0]).partition("_")[0]
        try:
            found = docstrings(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        for docstring in found:
            query, passage = _first_sentence(docstring.text)
            if not (20 <= len(query) <= 250 and query.count(" ") >= 3):
                continue
            if not (len(passage) >= 80 and passage.count(" ") >= 9):
                continue
            if query.casefold() not in rows and passage.casefold() not in seen:
                rows[query.casefold()] = (query, passage, document)
                seen.add(passage.casefold())
    everything = "\n".join(seen)
    kept = [row for key, row in rows.items() if key.rstrip(".!?") not in everything]
    if len(kept) < 2:
        raise BadInput(f"no documentation found under {library}: this Python came without its sources")
    pairs = [(query, passage) for query, passage, _ in kept]
    version = f"Python {platform.python_version()}"
    return Texts.pairs("python-docs", pairs, [row[2] for row in kept], version).split(seed=seed)


def documentation(seed: int = 0) -> Corpus:
    """Pages of Python's, manual pages' and Debian's documentation as it is installed, for language models.

    No document is on both sides, and the test side is the one that no model of the zoo has read. Raises BadInput
    where nothing is installed.
    """
    from ondevice.data import corpora

    sides = []
    for split, pages in (("train", 300), ("test", 120)):
        found = corpora.make(split, pages, seed=seed, domains=("python", "man", "debian"))
        owners = [f"{found.facts['documents'][owner]}" for owner in found["documents"]]
        sides.append(
            Texts(
                "documentation", tuple(corpora.texts(found)), documents=tuple(owners), version=found.version
            )
        )
    return Corpus(*sides)


def texts(source: str | Path) -> Texts:
    """A user's own texts.

    source: a .jsonl file with a row a line, {"text"}, {"text", "label"} or {"query", "passage"}; a folder of
    .txt, .md, .rst and .py files, whose passages become rows; a table (.csv, .parquet, .json); or the name of
    a data set of the hub, which needs the package `datasets`. Raises BadInput for what cannot be read.
    """
    if not str(source).strip():
        raise BadInput("no source of texts given")
    path = Path(source).expanduser()
    if path.is_dir():
        files = text_files(path)
        if files:
            rows = [(str(file.relative_to(path)), found.text) for file in files for found in passages(file)]
            if not rows:
                raise BadInput(f"the text files under {path} hold no text")
            documents, found_texts = zip(*rows, strict=True)
            return Texts(path.name, found_texts, documents=documents)
        return _dataset(str(path), path.name)
    if path.suffix == ".jsonl" or path.is_file():
        if not path.is_file():
            raise BadInput(f"no file {path}")
        if path.suffix == ".jsonl":
            return _from_rows(path.name, _json_lines(path))
        if path.suffix not in _TABLES:
            raise BadInput(
                f"{path}: expected .jsonl, {', '.join(_TABLES)} or a folder of {', '.join(SUFFIXES)}"
            )
        options = {"sep": "\t"} if path.suffix == ".tsv" else {}
        return _dataset(_TABLES[path.suffix], path.name, data_files=str(path), **options)
    if str(source).startswith((".", "~", "/")) or str(source).count("/") > 1:
        raise BadInput(f"no file or folder {source!r}")
    return _dataset(str(source), str(source))


def _first_sentence(docstring: str) -> tuple[str, str]:
    """(first sentence, remaining text); ("", "") if no sentence ends in the first paragraph."""
    first, _, rest = docstring.partition("\n\n")
    found = re.match(r"(.+?[.!?])(?:\s+(?=[^a-z\s])(.*)|$)", " ".join(first.split()))
    return (found[1], " ".join(f"{found[2] or ''} {rest}".split())) if found else ("", "")


def _json_lines(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{where} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise BadInput(
                    f'{where} is not an object; expected {{"text": …}} or {{"query": …, "passage": …}}'
                )
            yield where, row


def _from_rows(name: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Texts:
    values: dict[str, list[Any]] = {}
    for where, row in rows:
        found = {
            field: row[key]
            for field, keys in _FIELDS.items()
            if (key := next((key for key in keys if row.get(key) is not None), None))
        }
        wanted = next((kind for kind in (("query", "passage"), ("text",)) if set(kind) <= set(found)), None)
        if wanted is None:
            fields = ", ".join(map(str, row)) or "nothing"
            raise BadInput(f"{where} has {fields}; expected text, text and label, or query and passage")
        if wanted == ("text",) and "label" in found:
            wanted = ("text", "label")
        if values and set(values) != set(wanted):
            raise BadInput(f"{where} has {' and '.join(wanted)}, the rows before have {' and '.join(values)}")
        for field in wanted:
            value = found[field]
            if field != "label" and (not isinstance(value, str) or not value.strip()):
                raise BadInput(f"{where}: {field} is {value!r}, not a text")
            if field == "label" and (isinstance(value, bool) or not isinstance(value, int | str)):
                raise BadInput(f"{where}: label is {value!r}, expected a number or a name")
            values.setdefault(field, []).append(value)
    if not values:
        raise BadInput(f"{name} has no rows")
    if "query" in values:
        return Texts.pairs(name, zip(values["query"], values["passage"], strict=True))
    return Texts(name, tuple(values["text"]), labels=tuple(values.get("label", ())))


def _dataset(loader: str, name: str, **options: str) -> Texts:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data", f"to read {name}") from error
    load: Callable[..., Any] = datasets.load_dataset
    try:
        loaded = load(loader, **options)
    except Exception as error:  # of many libraries: pandas, pyarrow, the hub's
        raise BadInput(f"{name} cannot be read as a data set: {error}") from error
    split = "train" if "train" in loaded else next(iter(loaded))
    return _from_rows(name, ((f"{name}, row {index}", row) for index, row in enumerate(loaded[split])))
