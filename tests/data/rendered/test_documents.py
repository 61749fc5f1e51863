"""Scanned pages: repeatable, fonts apart, boxes lie on ink, the text is the one that is printed."""

from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import documents
from ondevice.data.rendered.lettering import Font, letters, width
from ondevice.errors import BadInput, MissingTool


@pytest.fixture(scope="module")
def scans() -> documents.DataSet:
    return documents.make("train", 18)


def test_same_seed_same_set_other_seed_another() -> None:
    sets = [documents.make("train", 2, seed=seed, height=192).fingerprint() for seed in (0, 0, 1)]
    assert sets[0] == sets[1] != sets[2]


def test_train_and_test_are_printed_in_other_fonts(scans: documents.DataSet) -> None:
    test = documents.make("test", 6, height=192)
    assert set(scans.facts["fonts"]).isdisjoint(test.facts["fonts"])
    assert set(scans["fonts"]) <= set(range(len(scans.facts["fonts"])))
    assert scans["labels"].tolist() == [0, 1, 2, 3, 4, 5] * 3


def test_every_box_lies_on_the_page_and_on_ink(scans: documents.DataSet) -> None:
    _, height, across, _ = scans["images"].shape
    seen = set()
    for row in range(len(scans)):
        page = scans["images"][row, ..., 0].astype(float)
        paper = np.median(page)
        covered = np.zeros(page.shape, bool)
        for left, top, wide, high, kind in scans.ragged("boxes")[row]:
            assert left >= 0
            assert top >= 0
            assert wide > 2
            assert high > 2
            assert left + wide <= across + 0.01
            assert top + high <= height + 0.01
            part = slice(int(top), int(np.ceil(top + high))), slice(int(left), int(np.ceil(left + wide)))
            assert page[part].min() < paper - 50
            covered[part] = True
            seen.add(scans.facts["blocks"][int(kind)])
        inner = slice(int(0.1 * height), int(0.9 * height)), slice(int(0.1 * across), int(0.9 * across))
        dark = page[inner] < paper - 70
        assert covered[inner][dark].mean() > 0.85  # the rest are rules between columns and round the page
    assert seen == set(scans.facts["blocks"])


def test_the_text_stands_in_its_box(scans: documents.DataSet) -> None:
    """Printed again in the page's font, each title has the width of its box."""
    faces = {name: Font(name, file, bold) for name, file, bold in (
        ("DejaVu Serif", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
        ("DejaVu Sans Mono", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    )}  # fmt: skip
    for row in range(len(scans)):
        texts, boxes = documents.text_of(scans, row), scans.ragged("boxes")[row]
        assert len(texts) == len(boxes)
        face = faces[scans.facts["fonts"][scans["fonts"][row]]]
        for text, (_, _, wide, high, kind) in zip(texts, boxes):
            if scans.facts["blocks"][int(kind)] != "title":
                continue
            assert text
            lines = text.split("\n")
            widths = [max(width(face, line, size, True) for line in lines) for size in range(5, 32)]
            assert min(abs(wide - each) / wide for each in widths) < 0.08
            assert high / len(lines) > 5


def test_tables_add_up(scans: documents.DataSet) -> None:
    row = scans.classes.index("invoice")
    texts = documents.text_of(scans, row)
    table = next(text for text in texts if text.startswith("Item"))
    rows = [line.split("\t") for line in table.split("\n")[1:]]
    for _, many, price, total in rows:
        assert int(many) * float(price) == pytest.approx(float(total), abs=0.01)
    total = next(text for text in texts if text.startswith("Total"))
    assert float(total.split()[1]) == pytest.approx(sum(float(each[3]) for each in rows), abs=0.01)


def test_letters_are_black_on_nothing() -> None:
    cover = letters(Font("Aileron"), "Hill", 20, 60, 30)
    assert cover.shape == (30, 60)
    assert cover.max() == 1
    assert cover[:, int(width(Font("Aileron"), "Hill", 20)) + 2 :].max() == 0
    assert cover[26:].max() == 0  # nothing below the baseline


def test_bad_input(scans: documents.DataSet) -> None:
    for call in (
        lambda: documents.make("dev", 1),
        lambda: documents.make("train", 0),
        lambda: documents.make("train", 1, height=100),
    ):
        with pytest.raises(BadInput):
            call()
    with pytest.raises(MissingTool, match="apt install"):
        width(Font("Nowhere", "Nowhere-Regular.ttf"), "x", 12)
    assert documents.draw(scans, 3).shape == (384, 288, 3)
