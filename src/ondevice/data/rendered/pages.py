"""Printed pages of six types, block by block, with what is written in each.

Knows what a letter, an article, an invoice, a report, a form and a newspaper look like. Knows nothing of scanners or
sets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ondevice.data.rendered import lettering
from ondevice.data.rendered.canvas import coverage, stroke
from ondevice.data.rendered.lettering import Font
from ondevice.data.rendered.typesetting import NAMES, THINGS, WORDS, Block, Page

TYPES = ("letter", "article", "invoice", "report", "form", "newspaper")


def typeset(random: np.random.Generator, kind: int, font: Font, height: int, width: int) -> Page:
    """A page of one of `TYPES`."""
    size = int(random.integers(8, 11) * width / 288)
    page = Page(random, font, np.zeros((height, width)), max(6, size))
    margin = random.uniform(0.06, 0.11) * width
    _KINDS[kind](page, margin, margin * random.uniform(0.7, 1.3), width - 2 * margin, height - margin)
    return page


def _number(random: np.random.Generator, top: float = 900) -> str:
    return f"{random.uniform(1, top):.2f}"


def _letter(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random, half = page.random, width * 0.5
    address = f"{page.name()} {random.integers(1, 200)} {random.choice(NAMES)} Road"
    y = (
        page.block("paragraph", address, x + (half if random.random() < 0.6 else 0), y, half * 0.8)
        + page.leading
    )
    y = page.block(
        "field",
        f"{random.integers(1, 29)} {random.choice(['March', 'May', 'June', 'October'])} 19{random.integers(60, 99)}",
        x,
        y,
        half,
    )
    y = page.block("paragraph", f"Dear {page.name()},", x, y + page.leading, width) + 0.6 * page.leading
    end = bottom - random.uniform(6, 11) * page.leading
    y = page.paragraphs(x, y, width, end)
    y = page.block("paragraph", "Yours sincerely,", x, y + 0.5 * page.leading, width)
    t = np.linspace(0, 1, 40)
    scrawl = np.stack(
        [
            x + 8 + 70 * t,
            y + 14 + 8 * np.sin(t * random.uniform(15, 30) + 2) * (1 - 0.6 * t) + 3 * np.sin(t * 7),
        ],
        1,
    )
    np.maximum(page.ink, 0.85 * coverage(stroke(scrawl, 1.3), *page.ink.shape), out=page.ink)
    page.blocks.append(Block("figure", x + 8, y + 2, x + 80, y + 28, ""))
    page.block("field", page.name(), x, y + 30, width)


def _article(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random, gap = page.random, page.size * 1.4
    title = page.words(int(random.integers(4, 9))).rstrip(".").title()
    y = page.block("title", title, x, y, width, round(page.size * 1.6), True, "centre", 2)
    y = page.block(
        "field",
        ", ".join(page.name() for _ in range(int(random.integers(1, 4)))),
        x,
        y + 3,
        width,
        align="centre",
    )
    y += page.leading
    column = (width - gap) / 2
    place = int(random.integers(3))  # 0, 1: a figure or table heads that column
    for k in range(2):
        left, top = x + k * (column + gap), y
        if k == place:
            if random.random() < 0.5:
                top = page.figure(left, top, column, column * random.uniform(0.5, 0.8)) + 3
            else:
                rows = [
                    [str(random.choice(THINGS)), _number(random, 99)]
                    for _ in range(int(random.integers(3, 7)))
                ]
                top = page.table(["Name", "Mean"], rows, left, top, column) + 3
            top = (
                page.block(
                    "caption",
                    f"Figure {random.integers(1, 5)}. {page.words(5)}",
                    left,
                    top,
                    column,
                    page.size - 1,
                )
                + page.leading
            )
        page.paragraphs(left, top, column, bottom)


def _invoice(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random = page.random
    y = page.block(
        "title",
        f"{random.choice(NAMES)} & {random.choice(NAMES)} Ltd",
        x,
        y,
        width,
        round(page.size * 1.7),
        True,
    )
    y = page.block(
        "field",
        f"Invoice No. {random.integers(1000, 99999)}",
        x,
        y + page.leading,
        width,
        bold=True,
        align=str(random.choice(["left", "right"])),
    )
    y = page.block(
        "paragraph",
        f"To {page.name()}, {random.integers(1, 200)} {random.choice(NAMES)} Street",
        x,
        y + 0.5 * page.leading,
        width * 0.55,
    )
    rows = []
    for _ in range(int(random.integers(3, 10))):
        many, price = int(random.integers(1, 30)), round(random.uniform(1, 90), 2)
        rows.append([str(random.choice(THINGS)), str(many), f"{price:.2f}", f"{many * price:.2f}"])
    y = page.table(["Item", "Qty", "Price", "Sum"], rows, x, y + 1.5 * page.leading, width) + page.leading
    total = sum(float(row[3]) for row in rows)
    y = page.block("field", f"Total {total:.2f}", x, y, width, round(page.size * 1.2), True, "right")
    if random.random() < 0.7:
        page.block(
            "paragraph",
            page.words(int(random.integers(8, 30))),
            x,
            min(y + 2 * page.leading, bottom - 3 * page.leading),
            width,
            lines=4,
        )


def _report(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random, section = page.random, 1
    y = page.block("title", page.words(4).rstrip(".").title(), x, y, width, round(page.size * 1.7), True)
    while bottom - y > 7 * page.leading:
        y = page.block(
            "title",
            f"{section}. {page.words(3).rstrip('.')}",
            x,
            y + 0.8 * page.leading,
            width,
            round(page.size * 1.15),
            True,
            lines=1,
        )
        y = page.paragraphs(x, y + 2, width, min(bottom, y + random.uniform(4, 9) * page.leading))
        kind, room = int(random.integers(4)), bottom - y
        if kind == 0 and room > 9 * page.leading:
            y = page.figure(x + width * 0.15, y, width * 0.7, min(width * 0.4, room - 3 * page.leading)) + 3
            y = page.block(
                "caption",
                f"Figure {section}. {page.words(6)}",
                x,
                y,
                width,
                page.size - 1,
                align="centre",
                lines=1,
            )
        elif kind == 1 and room > 8 * page.leading:
            rows = [[str(random.choice(THINGS)), _number(random), _number(random, 9)] for _ in range(3)]
            y = page.table(["Item", "1998", "1999"], rows, x, y, width) + 0.5 * page.leading
        elif kind == 2 and room > 6 * page.leading:
            items = [f"- {page.words(int(random.integers(3, 7)))}" for _ in range(int(random.integers(2, 5)))]
            top, printed = y, []
            for item in items:
                printed.append(page.wrapped(item, width - 14)[0])
                page.line(printed[-1], x + 12, y)
                y += page.leading
            page.blocks.append(Block("list", x + 12, top, x + width, y, "\n".join(printed)))
        section += 1


def _form(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random = page.random
    y = (
        page.block(
            "title",
            f"Form {random.integers(10, 99)}: {page.words(3).rstrip('.')}",
            x,
            y,
            width,
            round(page.size * 1.5),
            True,
            "centre",
            1,
        )
        + page.leading
    )
    boxed = random.random() < 0.5
    while bottom - y > 3 * page.leading:
        kind = random.random()
        label = str(
            random.choice(
                [
                    "Surname",
                    "First name",
                    "Date of birth",
                    "Street",
                    "Town",
                    "Telephone",
                    "Occupation",
                    "Number",
                    "Reason",
                ]
            )
        )
        if kind < 0.68:
            wide, high = lettering.width(page.font, label + ": ", page.size), 1.5 * page.size
            page.line(label + ":", x, y)
            if boxed:
                page.frame(x + wide + 4, y - 2, x + width, y + high - 2)
            else:
                page.rule(x + wide + 4, y + page.size * 1.2, x + width, y + page.size * 1.2)
            page.blocks.append(Block("field", x, y - 2, x + width, y + high, label + ":"))
        elif kind < 0.88:
            left, top = x, y
            options = [str(word).capitalize() for word in random.choice(WORDS, int(random.integers(2, 4)))]
            for option in options:
                page.frame(left, y + 1, left + page.size * 0.9, y + 1 + page.size * 0.9)
                if random.random() < 0.4:
                    page.rule(left, y + 1, left + page.size * 0.9, y + 1 + page.size * 0.9)
                    page.rule(left + page.size * 0.9, y + 1, left, y + 1 + page.size * 0.9)
                left += page.line(option, left + page.size * 1.3, y)[0] + page.size * 3
            page.blocks.append(
                Block("list", x, top, min(left, x + width), y + page.leading, "\n".join(options))
            )
        else:
            y = page.block("paragraph", page.words(16), x, y, width, lines=2) - page.leading
        y += page.leading * 1.9


def _newspaper(page: Page, x: float, y: float, width: float, bottom: float) -> None:
    random, page.size = page.random, max(6, page.size - 1)
    page.rule(x, y, x + width, y, 1.5)
    y = page.block(
        "title",
        f"The {random.choice(NAMES)} {random.choice(['Times', 'Herald', 'Post'])}",
        x,
        y + 3,
        width,
        round(page.size * 2.6),
        True,
        "centre",
        1,
    )
    page.rule(x, y, x + width, y, 1.5)
    gap, columns = page.size * 1.1, int(random.integers(3, 5))
    column = (width - gap * (columns - 1)) / columns
    y += 0.5 * page.leading
    wide = int(random.integers(2, columns + 1))
    start = int(random.integers(0, columns - wide + 1))
    left = x + start * (column + gap)
    span = wide * column + (wide - 1) * gap
    below = (
        page.block(
            "title",
            page.words(int(random.integers(3, 7))).rstrip("."),
            left,
            y,
            span,
            round(page.size * 1.7),
            True,
            lines=2,
        )
        + 3
    )
    if random.random() < 0.8:
        below = page.figure(left, below, span, span * random.uniform(0.35, 0.55), True) + 4
    for k in range(columns):
        at, top = x + k * (column + gap), below if start <= k < start + wide else y
        while bottom - top > 5 * page.leading:
            stop = min(bottom, top + random.uniform(8, 30) * page.leading)
            top = page.paragraphs(at, top, column, stop)
            if bottom - top > 6 * page.leading:
                top = (
                    page.block(
                        "title",
                        page.words(3).rstrip("."),
                        at,
                        top,
                        column,
                        round(page.size * 1.2),
                        True,
                        lines=2,
                    )
                    + 2
                )
        if k and not start < k < start + wide:
            page.rule(at - gap / 2, y, at - gap / 2, bottom, 0.5)


_KINDS: tuple[Callable[[Page, float, float, float, float], None], ...] = (
    _letter, _article, _invoice, _report, _form, _newspaper,
)  # fmt: skip
