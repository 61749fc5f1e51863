"""Documentation by domain: one document on one side, no paragraph on both, true sums and true JSON."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ondevice.data import corpora
from ondevice.errors import BadInput

WORDS = [
    first + second for first in ("ba", "ki", "lo", "mu") for second in ("ran", "sel", "tor", "vin", "gup")
]
LICENCE = (
    "Permission is hereby granted to everybody, version 1.2 of 2003, to copy this text wherever it is wanted."
)


def _prose(rng: np.random.Generator, paragraphs: int) -> str:
    return "\n\n".join(" ".join(rng.choice(WORDS, 40)) + "." for _ in range(paragraphs))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Path:
    """A small system: 60 manual pages, 30 packages with notes, 30 Python modules; all carry the same licence."""
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    share = tmp_path / "root" / "usr" / "share"
    (share / "man" / "man1").mkdir(parents=True)
    for number in range(60):
        text = f".TH TOOL 1\n.SH NAME\ntool{number} \\- does things\n.SH LICENCE\n{LICENCE}\n.PP\n{_prose(rng, 3)}\n"
        (share / "man" / "man1" / f"tool{number}.1.gz").write_bytes(gzip.compress(text.encode()))
    for number in range(30):
        folder = share / "doc" / f"package{number}"
        folder.mkdir(parents=True)
        (folder / "README").write_text(f"{LICENCE.replace('2003', '2011').upper()}\n\n{_prose(rng, 3)}")
        (folder / "changelog.txt").write_text("secret " * 100)
    library = tmp_path / "root" / "lib" / "python"
    library.mkdir(parents=True)
    for number in range(30):
        body = f'def function():\n    """{_prose(rng, 8)}\n\n    {LICENCE}\n    """\n'
        (library / f"module{number}.py").write_text(body)
    return tmp_path / "root"


def test_documents_are_on_one_side_and_no_paragraph_on_both(root: Path) -> None:
    train = corpora.make("train", 10_000, sources=root, domains=("python", "man", "debian"))
    test = corpora.make("test", 10_000, sources=root, domains=("python", "man", "debian"))
    assert {train.classes[label] for label in train["labels"]} == {"python", "man", "debian"}
    assert len(train) > len(test) > 0
    assert not set(train.facts["documents"]) & set(test.facts["documents"])
    sides = [
        {p for text in corpora.texts(side) for p in text.split("\n\n") if len(p) >= 60}
        for side in (train, test)
    ]
    assert not sides[0] & sides[1]
    everything = " ".join(" ".join(corpora.texts(side)) for side in (train, test))
    assert len(re.findall("permission is hereby", everything, re.IGNORECASE)) == 1
    assert "secret" not in everything


def test_same_seed_same_set_other_seed_another(root: Path) -> None:
    first, again, other = (corpora.make("train", 20, seed=seed, sources=root) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint()
    assert first.fingerprint() != other.fingerprint()
    assert len(first) == 20
    assert first.facts["bytes"].keys() == set(corpora.DOMAINS)


def test_sums_are_right_and_no_pair_of_numbers_is_on_both_sides() -> None:
    pairs = []
    for split in ("train", "test"):
        seen = set()
        for text in corpora.texts(corpora.make(split, 60, domains=("arithmetic",))):
            for line in text.split("\n"):
                a, sign, b, answer = re.fullmatch(r"(\d+) (\S+) (\d+) = (.+)", line).groups()  # type: ignore[union-attr]
                value = eval(f"{a} {sign} {b}")
                rest = f" remainder {int(a) % int(b)}" if sign == "//" else ""
                assert answer == f"{str(value).lower()}{rest}"
                seen.add((a, b))
        pairs.append(seen)
    assert not pairs[0] & pairs[1]


def test_json_is_json_and_no_schema_is_on_both_sides() -> None:
    schemas = []
    for split in ("train", "test"):
        records = [json.loads(text) for text in corpora.texts(corpora.make(split, 60, domains=("json",)))]
        assert all(record.keys() == page[0].keys() for page in records for record in page)
        schemas.append({tuple(page[0]) for page in records})
    assert not schemas[0] & schemas[1]


def test_a_page_is_drawn() -> None:
    samples = corpora.make("test", 2, domains=("arithmetic",))
    page = corpora.draw(samples, 0)
    assert page.dtype == np.uint8
    assert page.ndim == 3
    assert (page[30:] < 100).any()


def test_what_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="poems"):
        corpora.make("train", 3, domains=("poems",))
    with pytest.raises(BadInput, match="dev"):
        corpora.make("dev", 3)
    with pytest.raises(BadInput, match="1 or more"):
        corpora.make("train", 0)
    with pytest.raises(BadInput, match="no documentation"):
        corpora.make("train", 3, domains=("man",), sources=tmp_path / "nowhere")


def test_wikitext_is_read_by_article(tmp_path: Path) -> None:
    (tmp_path / "wiki.test.tokens").write_text(
        " \n = First = \n \n Some text about it . \n \n = = Part = = \n More . \n \n = Second = \n \n Other text . \n"
    )
    samples = corpora.read_wikitext(tmp_path, "test")
    assert samples.facts["documents"] == ["First", "Second"]
    assert "More ." in corpora.texts(samples)[0]
    with pytest.raises(BadInput, match=r"wiki\.train\.tokens"):
        corpora.read_wikitext(tmp_path, "train")
