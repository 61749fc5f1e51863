"""Documentation by domain: Python's, manual pages, Debian's, and arithmetic and JSON made by seed.

Knows where documentation lies on a Debian system with Python, and how to keep a document on one side of a
split. Knows nothing of tokens or models. Nothing is shipped: what is installed is read, and a set's version
and fingerprint say what that was.

A document is what one hand wrote: a top-level package or a topic of Python's reference, the manual pages whose
names share their first word, the folder of a Debian package. A hash of its name puts it on one side: about
every tenth is for testing, at any seed. A paragraph of 60 characters or more stands in the whole corpus once
(letter case, digits and spaces aside), whatever document it was copied to: a licence that a hundred packages
carry is kept in one of them. Of arithmetic a hash of the two numbers decides, of JSON one of the set of keys.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
import platform
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.documents import docstrings, text_files
from ondevice.data.markup import pod, roff
from ondevice.data.page import draw_page
from ondevice.data.sets import DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
DOMAINS = ("python", "man", "debian", "arithmetic", "json")

_PAGE = 4096  # characters a row holds at most
_SHORTEST = 200  # characters: shorter pages are headings and stubs
_DOCUMENT = 300_000  # characters of one document at most, or a few large packages would be most of the corpus
_COPIED = 60  # characters: shorter paragraphs (NAME, SEE ALSO) may repeat
_NOT_PROSE = re.compile(r"change(log|s)|copyright|relnotes|\.html|authors|thanks|test", re.IGNORECASE)
_PROSE = re.compile(r"(readme|faq|news|todo|about|intro)|\.(txt|md|rst|pod)$", re.IGNORECASE)
_LEFT_OUT = {"test", "tests", "testing", "_vendor", "vendored", "third_party"}

Source = tuple[str, str, list[Path]]  # domain, name of the document, its files


def make(
    split: str, count: int, *, seed: int = 0, domains: Sequence[str] = DOMAINS, sources: Path | None = None
) -> DataSet:
    """Pages of text, the domains in equal parts and mixed.

    Arrays: text uint8 (UTF-8, of unequal length, at most 4096 characters), labels (the domain), documents (index
    into facts["documents"]; of arithmetic and JSON -1). `classes` are the domains. Of documentation the pages
    are drawn by seed, without repetition; where a machine has fewer than its share of `count`, all of them
    come, so that the set may be smaller. sources: read the documentation under this folder instead, laid out as
    under /: usr/share/man, usr/share/doc, usr/share/perl, lib/python. Raises BadInput for an unknown domain and
    where nothing is found at all.
    """
    rng = generator("corpora", split, seed)
    if count < 1:
        raise BadInput(f"{count} pages are none; ask for 1 or more")
    if not domains or (unknown := sorted(set(domains) - set(DOMAINS))):
        raise BadInput(f"domains {', '.join(unknown) if domains else '()'}: there are {', '.join(DOMAINS)}")
    share = -(-count // len(domains))
    pages: list[tuple[int, int, bytes]] = []
    documents: list[str] = []
    library = _library(sources) if set(domains) & {"python", "man", "debian"} else None
    for label, domain in enumerate(domains):
        if domain in ("arithmetic", "json"):
            write = _arithmetic if domain == "arithmetic" else _json
            pages += [(label, -1, write(rng, split).encode()) for _ in range(share)]
        elif library is not None:
            there = np.flatnonzero(
                (library["labels"] == DOMAINS.index(domain)) & (library["test"] == (split == "test"))
            )
            text, owner = library.ragged("text"), library["documents"]
            for row in rng.permutation(there)[:share]:
                pages.append((label, int(owner[row]), text[int(row)].tobytes()))
    if not pages:
        raise BadInput("no documentation found: this machine has no Python sources and no manual pages")
    pages = [pages[index] for index in rng.permutation(len(pages))[:count]]
    if library is not None:
        seen = sorted({owner for _, owner, _ in pages if owner >= 0})
        documents = [library.facts["documents"][owner] for owner in seen]
        position = {owner: index for index, owner in enumerate(seen)} | {-1: -1}
        pages = [(label, position[owner], text) for label, owner, text in pages]
    return DataSet(
        "corpora",
        split,
        {
            "text": Ragged.of(np.frombuffer(text, np.uint8) for _, _, text in pages),
            "labels": np.array([label for label, _, _ in pages], np.int64),
            "documents": np.array([owner for _, owner, _ in pages], np.int64),
        },
        tuple(domains),
        {"documents": documents, "bytes": _bytes(pages, domains)},
        library.version if library is not None else VERSION,
    )


def texts(samples: DataSet) -> list[str]:
    """The rows of a text set as strings."""
    rows = samples.ragged("text")
    return [rows[row].tobytes().decode("utf-8", "replace") for row in range(len(rows))]


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The page as it reads, under its domain and document."""
    label, owner = int(samples["labels"][row]), int(samples["documents"][row])
    title = samples.classes[label] + (f": {samples.facts['documents'][owner]}" if owner >= 0 else "")
    return draw_page(title, samples.ragged("text")[row].tobytes().decode("utf-8", "replace"), label)


def read_wikitext(folder: str | Path, split: str = "train") -> DataSet:
    """WikiText (Merity 2016) as it is distributed: wiki.train.tokens and wiki.test.tokens (or .raw) in a folder.

    A row is an article, `classes` has the one domain "wikitext". Raises BadInput where the file is missing.
    """
    folder = Path(folder)
    if split not in ("train", "test", "valid"):
        raise BadInput(f"split {split!r} is none of 'train', 'valid', 'test'")
    names = [f"wiki.{split}.{ending}" for ending in ("tokens", "raw")]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise BadInput(f"{folder} has no {' or '.join(names)}; unpack the WikiText archive there")
    articles: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").split("\n"):
        if re.fullmatch(r" = [^=].*[^=] = ", line.rstrip("\r") if line.endswith(" ") else f"{line} "):
            articles.append([])
        articles[-1].append(line.strip())
    rows = [text for article in articles if (text := "\n".join(article).strip())]
    if not rows:
        raise BadInput(f"{path} holds no text; unpack the WikiText archive again")
    return DataSet(
        "wikitext",
        split,
        {
            "text": Ragged.of(np.frombuffer(text.encode(), np.uint8) for text in rows),
            "labels": np.zeros(len(rows), np.int64),
            "documents": np.arange(len(rows)),
        },
        ("wikitext",),
        {"documents": [text.split("\n")[0].strip("= ") for text in rows]},
        path.name,
    )


def _library(root: Path | None) -> DataSet:
    """Every page of the installed documentation, cached by the list of files and their sizes."""
    sources = sorted(_sources(root), key=lambda source: _digest(f"{source[0]}/{source[1]}"))
    listing = hashlib.sha256()
    for _, _, files in sources:
        for path in files:
            listing.update(f"{path} {path.stat().st_size}\n".encode())
    version = f"{VERSION}; Python {platform.python_version()}; {_system()}"
    settings = {"version": version, "files": listing.hexdigest()}
    return kept("corpora", settings, lambda: _read_all(sources, version))


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:  # not Linux
        return platform.system()


def _read_all(sources: Sequence[Source], version: str) -> DataSet:
    seen: set[bytes] = set()
    rows: list[tuple[int, int, bool, bytes]] = []
    names: list[str] = []
    for domain, name, files in sources:
        test = int.from_bytes(_digest(f"{domain}/{name}")[:4], "big") % 10 == 0
        pages = list(_pages(_fresh(_read_some(domain, files), seen)))
        if pages:
            rows += [
                (DOMAINS.index(domain), len(names), test, page.encode("utf-8", "replace")) for page in pages
            ]
            names.append(f"{domain}/{name}")
    if not rows:
        raise BadInput("no documentation found: this machine has no Python sources and no manual pages")
    return DataSet(
        "corpora",
        "all",
        {
            "text": Ragged.of(np.frombuffer(page, np.uint8) for _, _, _, page in rows),
            "labels": np.array([label for label, _, _, _ in rows], np.int64),
            "documents": np.array([owner for _, owner, _, _ in rows], np.int64),
            "test": np.array([test for _, _, test, _ in rows]),
        },
        DOMAINS,
        {"documents": names},
        version,
    )


def _sources(root: Path | None) -> Iterator[Source]:
    """The documents that are installed, by domain."""
    share = (root or Path("/")) / "usr" / "share"
    found: dict[tuple[str, str], list[Path]] = {}
    libraries = (
        [root / "lib" / "python"]
        if root
        else [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib")]
    )
    for library in libraries:
        for path in text_files(library):
            parts = path.relative_to(library).with_suffix("").parts
            # short files are stubs; what is installed beside the library comes by its own folder
            if (
                path.suffix == ".py"
                and (_LEFT_OUT | {"site-packages", "dist-packages"}).isdisjoint(parts)
                and path.stat().st_size >= 1500
            ):
                # _pydecimal documents decimal, _collections_abc collections
                name = re.sub(r"^_(py)?", "", parts[0]).partition("_")[0]
                found.setdefault(("python", name), []).append(path)
    for section in range(1, 9):
        for path in _files(share / "man" / f"man{section}"):
            found.setdefault(("man", re.split(r"[-_.:]", path.name)[0].lower()), []).append(path)
    for path in [*_files(share / "doc"), *_files(share / "perl")]:
        inside = path.relative_to(share)
        name = str(inside).removesuffix(".gz")
        if _PROSE.search(Path(name).name) and not _NOT_PROSE.search(name):
            found.setdefault(("debian", inside.parts[1]), []).append(path)
    for (domain, name), files in found.items():
        yield domain, name, files


def _files(folder: Path) -> list[Path]:
    """The files under a folder in a fixed order, links left out."""
    found = []
    for base, folders, files in os.walk(folder):
        folders.sort()
        found += [path for name in sorted(files) if not (path := Path(base, name)).is_symlink()]
    return found


def _read_some(domain: str, files: Sequence[Path]) -> Iterator[str]:
    """The paragraphs of a document, up to its size limit."""
    length = 0
    for path in files:
        try:
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            text = _python(content) if domain == "python" else content.decode("utf-8")
        except (OSError, EOFError, SyntaxError, ValueError, RecursionError):
            continue  # not a text, or not of this Python
        if domain == "man":
            text = "" if text.startswith(".so ") else roff(text)
        elif path.name.removesuffix(".gz").endswith(".pod"):
            text = pod(text)
        for paragraph in re.split(r"\n[ \t]*\n", text):
            length += len(paragraph)
            if length > _DOCUMENT:
                return
            yield paragraph.rstrip().strip("\n")


def _python(content: bytes) -> str:
    """Docstrings under their names; of the interpreter's own reference (a table of topics) the topics."""
    if content.startswith(b"# -*- coding: utf-8 -*-\n# Autogenerated by Sphinx"):
        table = ast.parse(content).body[0]
        return "\n\n".join(ast.literal_eval(table.value).values()) if isinstance(table, ast.Assign) else ""
    return "\n\n".join(f"{found.name}\n{found.text}" for found in docstrings(content))


def _fresh(paragraphs: Iterator[str], seen: set[bytes]) -> Iterator[str]:
    """Those that are prose and stood nowhere before."""
    for paragraph in paragraphs:
        plain = re.sub(r"\d+", "0", re.sub(r"\s+", " ", paragraph)).strip().casefold()
        if len(plain) >= _COPIED:
            key = _digest(plain)[:12]
            if key in seen or sum(map(str.isalpha, plain)) < 0.5 * len(plain):
                continue
            seen.add(key)
        if plain:
            yield paragraph


def _pages(paragraphs: Iterator[str]) -> Iterator[str]:
    """Whole paragraphs as far as they fit on a page."""
    held = ""
    for paragraph in paragraphs:
        while len(paragraph) > _PAGE:
            cut = max(paragraph.rfind("\n", 0, _PAGE), paragraph.rfind(" ", 0, _PAGE), _PAGE // 2)
            paragraph, rest = paragraph[:cut], paragraph[cut:].strip()
            if len(held) >= _SHORTEST:
                yield held
            yield paragraph
            held, paragraph = "", rest
        if held and len(held) + 2 + len(paragraph) > _PAGE:
            if len(held) >= _SHORTEST:
                yield held
            held = ""
        held = f"{held}\n\n{paragraph}" if held else paragraph
    if len(held) >= _SHORTEST:
        yield held


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _bytes(pages: Sequence[tuple[int, int, bytes]], domains: Sequence[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for label, _, text in pages:
        total[domains[label]] += len(text)
    return dict(sorted(total.items()))


def _other_side(key: str, split: str) -> bool:
    """Whether a made item belongs to the other split: a quarter is for testing."""
    return (_digest(key)[0] < 64) != (split == "test")


_OPERATIONS: dict[str, Callable[[int, int], str]] = {
    "+": lambda a, b: str(a + b),
    "-": lambda a, b: str(a - b),
    "*": lambda a, b: str(a * b),
    "//": lambda a, b: f"{a // b} remainder {a % b}",
    "<": lambda a, b: "true" if a < b else "false",
}


def _arithmetic(rng: np.random.Generator, split: str) -> str:
    """A page of calculations with whole numbers below 1000."""
    lines: list[str] = []
    while len(lines) < 40:
        a, b = (int(10 ** rng.uniform(0, 3)) for _ in range(2))
        if not _other_side(f"{a} {b}", split):
            sign = list(_OPERATIONS)[rng.integers(len(_OPERATIONS))]
            lines.append(f"{a} {sign} {b} = {_OPERATIONS[sign](a, b)}")
    return "\n".join(lines)


_KEYS = (
    "name", "id", "size", "owner", "tags", "enabled", "version", "path", "created", "price", "currency", "city",
    "latitude", "longitude", "email", "role", "count", "status", "timeout", "retries", "parent", "children",
)  # fmt: skip
_SYLLABLES = (
    "ba",
    "ren",
    "tol",
    "mi",
    "ka",
    "sho",
    "du",
    "lin",
    "ver",
    "ost",
    "pa",
    "gri",
    "ne",
    "zu",
    "fal",
)


def _json(rng: np.random.Generator, split: str) -> str:
    """A page of JSON: records of one schema, values drawn by the key's kind."""
    while True:
        keys = [_KEYS[index] for index in sorted(rng.choice(len(_KEYS), rng.integers(4, 8), replace=False))]
        if not _other_side(" ".join(keys), split):
            break
    records = [{key: _value(key, rng) for key in keys} for _ in range(rng.integers(4, 10))]
    return json.dumps(records, indent=1 + int(rng.integers(2)))[:_PAGE]


def _value(key: str, rng: np.random.Generator) -> Any:
    def word() -> str:
        return "".join(_SYLLABLES[index] for index in rng.integers(len(_SYLLABLES), size=rng.integers(2, 4)))

    if key in ("id", "size", "count", "timeout", "retries"):
        return int(10 ** rng.uniform(0, 4))
    if key in ("price", "latitude", "longitude"):
        return round(float(rng.uniform(-90, 90)), 2)
    if key == "enabled":
        return bool(rng.integers(2))
    if key in ("tags", "children"):
        return [word() for _ in range(rng.integers(0, 4))]
    if key == "created":
        year, month, day = rng.integers(2001, 2030), rng.integers(1, 13), rng.integers(1, 29)
        return f"{year}-{month:02}-{day:02}"
    if key == "email":
        return f"{word()}@{word()}.org"
    return {
        "version": f"{rng.integers(10)}.{rng.integers(30)}",
        "path": f"/{word()}/{word()}",
        "status": ("open", "closed", "waiting")[rng.integers(3)],
        "role": ("admin", "guest", "editor")[rng.integers(3)],
        "currency": ("EUR", "USD", "JPY")[rng.integers(3)],
    }.get(key, word())
