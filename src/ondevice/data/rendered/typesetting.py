"""Ink on a page: lines, paragraphs, tables, charts, and where each lies.

Knows fonts and a vocabulary. Knows nothing of types of pages, scanners or sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered import lettering
from ondevice.data.rendered.canvas import coverage, stroke
from ondevice.data.rendered.lettering import Font
from ondevice.data.rendered.textures import noise

BLOCKS = ("title", "paragraph", "table", "figure", "list", "caption", "field")
WORDS = (
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not",
    "he", "his", "but", "at", "are", "this", "have", "from", "or", "had", "an", "they", "which", "one", "you",
    "were", "all", "her", "she", "there", "would", "their", "we", "him", "been", "has", "when", "who", "will", "no",
    "more", "if", "out", "so", "up", "said", "what", "its", "about", "than", "into", "them", "can", "only", "other",
    "time", "new", "some", "could", "these", "two", "may", "first", "then", "do", "any", "like", "my", "now",
    "over", "such", "our", "man", "even", "most", "made", "after", "also", "did", "many", "off", "before", "must",
    "well", "back", "through", "years", "where", "much", "your", "way", "down", "should", "because", "long", "each",
    "just", "state", "those", "people", "too", "mr", "how", "little", "good", "world", "make", "very", "year",
    "still", "see", "work", "life", "get", "here", "between", "both", "being", "under", "never", "day", "same",
    "another", "know", "might", "us", "great", "old", "while", "last", "against", "came", "right", "take", "used",
    "himself", "few", "house", "use", "place", "during", "without", "again", "small", "home", "around", "found",
    "water", "public", "following", "thought", "number", "part", "general", "course", "almost", "point", "market",
    "price", "service", "report", "system", "study", "value", "order", "office", "school", "paper", "letter",
    "energy", "light", "garden", "bridge", "morning",
)  # fmt: skip
NAMES = ("Adler", "Brook", "Castle", "Dunmore", "Ellis", "Fairbanks", "Grant", "Hollis", "Irving", "Jansen", "Keller",
          "Lowell", "Mercer", "Norton", "Osborn", "Prentice", "Quincy", "Rowe", "Sutton", "Thorne", "Upton", "Vance",
          "Weller", "York")  # fmt: skip
THINGS = (
    "Paper",
    "Lamp",
    "Chair",
    "Cable",
    "Desk",
    "Filter",
    "Battery",
    "Carpet",
    "Mirror",
    "Printer",
    "Shelf",
    "Valve",
)


@dataclass(frozen=True)
class Block:
    """left, top, right, bottom in pixels; what is written in it."""

    kind: str
    left: float
    top: float
    right: float
    bottom: float
    text: str


@dataclass
class Page:
    """ink: coverage 0..1, (height, width). size: of its letters, pixels."""

    random: np.random.Generator
    font: Font
    ink: npt.NDArray[np.float64]
    size: int
    blocks: list[Block] = field(default_factory=list)

    @property
    def leading(self) -> int:
        return round(self.size * 1.35)

    def words(self, count: int) -> str:
        """That many words, as sentences."""
        words = [str(word) for word in self.random.choice(WORDS, count)]
        start = True
        for k, word in enumerate(words):
            words[k] = word.capitalize() if start else word
            start = self.random.random() < 0.09 or k == count - 1
            words[k] += "." if start else ("," if self.random.random() < 0.06 else "")
        return " ".join(words)

    def name(self) -> str:
        return f"{self.random.choice(list('ABCDEFGHJKLMNPRSTW'))}. {self.random.choice(NAMES)}"

    def line(
        self, text: str, x: float, y: float, size: int | None = None, bold: bool = False
    ) -> tuple[float, float]:
        """Print a line with its top left at (x, y); how wide and high it is."""
        size = size or self.size
        across = lettering.width(self.font, text, size, bold)
        down = round(size * 1.25)
        cover = lettering.letters(self.font, text, size, int(across) + 2, down, bold)
        top, left = max(0, round(y)), max(0, round(x))
        part = self.ink[top : top + down, left : left + cover.shape[1]]
        np.maximum(part, cover[: part.shape[0], : part.shape[1]], out=part)
        return across, down

    def wrapped(self, text: str, width: float, size: int | None = None, bold: bool = False) -> list[str]:
        """The text in lines that fit."""
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and lettering.width(self.font, longer, size or self.size, bold) > width:
                lines.append(word)
            else:
                lines[-1] = longer
        return lines

    def block(
        self, kind: str, text: str, x: float, y: float, width: float, size: int | None = None, bold: bool = False,
        align: str = "left", lines: int | None = None,
    ) -> float:  # fmt: skip
        """Print text within a width, no more than so many lines; where it ends below."""
        size = size or self.size
        step = round(size * 1.35)
        printed = self.wrapped(text, width, size, bold)[:lines]
        left, right = x + width, x
        for k, each in enumerate(printed):
            wide = lettering.width(self.font, each, size, bold)
            at = x + {"left": 0.0, "centre": (width - wide) / 2, "right": width - wide}[align]
            self.line(each, at, y + k * step, size, bold)
            left, right = min(left, at), max(right, at + wide)
        bottom = y + len(printed) * step
        self.blocks.append(Block(kind, left, y, right, bottom - 0.15 * size, "\n".join(printed)))
        return bottom

    def paragraphs(self, x: float, y: float, width: float, bottom: float) -> float:
        """Fill a column to the bottom with paragraphs."""
        while bottom - y > 2.5 * self.leading:
            room = int((bottom - y) / self.leading)
            lines = min(room, int(self.random.integers(3, 12)))
            y = self.block(
                "paragraph", self.words(int(lines * width / self.size / 2.4)), x, y, width, lines=lines
            )
            y += round(self.leading * 0.6)
        return y

    def rule(self, left: float, top: float, right: float, bottom: float, width: float = 1.0) -> None:
        line = coverage(stroke([(left, top), (right, bottom)], width), *self.ink.shape)
        np.maximum(self.ink, 0.8 * line, out=self.ink)

    def frame(self, left: float, top: float, right: float, bottom: float) -> None:
        for a, b, c, d in (
            (left, top, right, top),
            (left, bottom, right, bottom),
            (left, top, left, bottom),
            (right, top, right, bottom),
        ):
            self.rule(a, b, c, d)

    def table(self, head: list[str], rows: list[list[str]], x: float, y: float, width: float) -> float:
        """Columns of equal width, numbers to the right, ruled in one of three manners; where it ends below."""
        manner = int(self.random.integers(3))
        step, column = round(self.size * 1.6), width / len(head)
        for k, row in enumerate([head, *rows]):
            top = y + k * step
            for j, cell in enumerate(row):
                wide = lettering.width(self.font, cell, self.size, k == 0)
                at = x + j * column + (3 if j == 0 else column - wide - 3)
                self.line(cell, at, top + 1, self.size, bold=k == 0)
            if manner == 0 or k == 0:
                self.rule(x, top + step, x + width, top + step, 1.4 if k == 0 else 0.7)
        bottom = y + (len(rows) + 1) * step
        self.rule(x, y, x + width, y)
        self.rule(x, bottom, x + width, bottom)
        if manner == 2:
            for j in range(len(head) + 1):
                self.rule(x + j * column, y, x + j * column, bottom, 0.7)
        text = "\n".join("\t".join(row) for row in [head, *rows])
        self.blocks.append(Block("table", x, y, x + width, bottom, text))
        return bottom

    def figure(
        self, x: float, y: float, width: float, height: float, photograph: bool | None = None
    ) -> float:
        """A bar chart, a curve, points, or a photograph in halftone; where it ends below."""
        random = self.random
        if photograph if photograph is not None else random.random() < 0.25:
            top, left = round(y), round(x)
            grey = noise(random, round(height), round(width), random.uniform(12, 40), 5)
            part = self.ink[top : top + len(grey), left : left + grey.shape[1]]
            part[:] = 0.15 + 0.7 * grey[: part.shape[0], : part.shape[1]]
            self.frame(x, y, x + width, y + height)
        else:
            self.rule(x + 8, y, x + 8, y + height - 6)
            self.rule(x + 8, y + height - 6, x + width, y + height - 6)
            count = int(random.integers(4, 9))
            values = random.uniform(0.1, 0.9, count) * (height - 14)
            at = x + 14 + (width - 24) * np.arange(count) / count
            base = y + height - 6
            kind = int(random.integers(3))
            if kind == 0:
                half = (width - 24) / count * 0.32
                bars = [
                    [
                        (a - half + 8, base),
                        (a - half + 8, base - v),
                        (a + half + 8, base - v),
                        (a + half + 8, base),
                    ]
                    for a, v in zip(at, values)
                ]
                np.maximum(
                    self.ink, random.uniform(0.4, 0.85) * coverage(bars, *self.ink.shape), out=self.ink
                )
            elif kind == 1:
                line = stroke(np.stack([at, base - values], 1), 1.5)
                np.maximum(self.ink, 0.9 * coverage(line, *self.ink.shape), out=self.ink)
            else:
                spots = random.uniform(0, 1, (40, 2)) ** [[1.0, 1.3]]
                dots = [
                    stroke([(x + 12 + (width - 18) * a, base - 3 - (height - 14) * b)], 2.4)[0]
                    for a, b in spots
                ]
                np.maximum(self.ink, 0.9 * coverage(dots, *self.ink.shape), out=self.ink)
        self.blocks.append(Block("figure", x, y, x + width, y + height, ""))
        return y + height
