"""Scanned pages: letters, articles, invoices, reports, forms and newspapers, with their layout and text.

Knows pages and scanners. Knows nothing of readers. Train and test differ in fonts (facts["fonts"]: DejaVu Serif and
Sans Mono against DejaVu Sans and Aileron); the words are the same English ones. Paper, ink, lamp, angle, focus and
what shines through from the back vary in both.

Measured by benchmarks/controls.py (720 train, 240 test, height 192, six types): a linear head on the frozen random
features of a small CNN (4 stages, 16 to 96 channels) 65.0 %, the same CNN after 20 epochs 92.9 %; but a linear head on
the page at 10 by 10 pixels 94.2 %. Layout gives the type away: take these pages for their layout and their text, not
to show that a network learns to tell types.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import blur
from ondevice.data.rendered.fields import grid, sample, smooth
from ondevice.data.rendered.lettering import Font, fonts
from ondevice.data.rendered.pages import TYPES, typeset
from ondevice.data.rendered.typesetting import BLOCKS, Block
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "1"


def make(split: str, count: int, *, seed: int = 0, height: int = 384) -> DataSet:
    """Pages, the six types in turn.

    images uint8 (n, height, 3/4 height, 1); labels int64 (n,), the type, of `classes`; boxes float32, ragged,
    (blocks, 5): left, top, width, height in pixels, kind, of facts["blocks"]; text uint8, ragged: what the blocks
    say, UTF-8, a form feed between two (see `text_of`); fonts int64 (n,). Raises BadInput for another split or an
    empty set, MissingTool where a font is not installed.
    """
    if count < 1 or height < 192:
        raise BadInput(f"{count} pages of height {height}: give 1 or more, of 192 pixels or more")
    settings = {"split": split, "count": count, "seed": seed, "height": height, "version": VERSION}
    random = generator("documents", split, seed)
    faces = fonts(split)

    def render() -> DataSet:
        labels = np.arange(count) % len(TYPES)
        chosen = np.asarray(random.integers(0, len(faces), count), np.int64)
        images, boxes, texts = [], [], []
        for label, face in zip(labels, chosen):
            image, blocks = _scan(random, int(label), faces[face], height)
            images.append(image)
            boxes.append(
                np.array(
                    [
                        (b.left, b.top, b.right - b.left, b.bottom - b.top, BLOCKS.index(b.kind))
                        for b in blocks
                    ],
                    np.float32,
                )
            )
            texts.append(np.frombuffer("\f".join(b.text for b in blocks).encode(), np.uint8))
        arrays: dict[str, Array | Ragged] = {
            "images": np.stack(images),
            "labels": labels.astype(np.int64),
            "boxes": Ragged.of(boxes),
            "text": Ragged.of(texts),
            "fonts": chosen,
        }
        facts = {"blocks": list(BLOCKS), "fonts": [face.name for face in faces]}
        return DataSet("documents", split, arrays, TYPES, facts, VERSION)

    return kept("documents", settings, render) if count > 96 else render()


def text_of(samples: DataSet, row: int) -> list[str]:
    """What each block of a page says, in the order of its boxes."""
    return samples.ragged("text")[row].tobytes().decode().split("\f")


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The page with its blocks framed, a colour for each kind."""
    colours = np.array(
        [
            (220, 40, 40),
            (40, 110, 220),
            (230, 150, 0),
            (30, 160, 70),
            (150, 60, 200),
            (0, 170, 190),
            (130, 120, 60),
        ]
    )
    drawn = np.asarray(samples["images"][row].repeat(3, axis=2), np.uint8)
    for left, top, width, height, kind in samples.ragged("boxes")[row]:
        rows = np.clip([top, top + height], 0, drawn.shape[0] - 1).astype(int)
        columns = np.clip([left, left + width], 0, drawn.shape[1] - 1).astype(int)
        drawn[rows, columns[0] : columns[1]] = colours[int(kind)]
        drawn[rows[0] : rows[1], columns] = colours[int(kind)]
    return drawn


def _scan(
    random: np.random.Generator, kind: int, face: Font, height: int
) -> tuple[npt.NDArray[np.uint8], list[Block]]:
    width = height * 3 // 4
    page = typeset(random, kind, face, height, width)
    angle, zoom = random.normal(0, 0.012), random.uniform(0.97, 1.03)
    shift = random.normal(0, 0.008 * width, 2)
    down, across = grid(height, width)
    v, u = (down - height / 2 - shift[0]) / zoom, (across - width / 2 - shift[1]) / zoom
    source_down = height / 2 + v * np.cos(angle) - u * np.sin(angle)
    source_across = width / 2 + u * np.cos(angle) + v * np.sin(angle)
    ink = sample(page.ink, source_down, source_across)
    inside = (source_down > 0) & (source_down < height) & (source_across > 0) & (source_across < width)
    paper = random.uniform(0.78, 0.99) * (1 + 0.015 * smooth(random, height, width, 3))
    paper = paper + random.uniform(0, 0.05) * smooth(random, height, width, height / 2)
    if random.random() < 0.35:  # the other side shines through
        back = blur(page.ink[::-1, ::-1], 1.2)[:, ::-1]
        paper -= random.uniform(0.03, 0.09) * sample(back, source_down, source_across)
    dark = random.uniform(0.03, 0.3)
    scan = paper + (dark - paper) * np.clip(ink * random.uniform(0.85, 1.1), 0, 1)
    scan = np.where(inside, scan, random.uniform(0.1, 0.35))
    scan = blur(scan, random.uniform(0.2, 0.6)) + random.normal(0, random.uniform(0.005, 0.03), scan.shape)
    image = np.round(255 * np.clip(scan, 0, 1)).astype(np.uint8)[..., None]

    def moved(block: Block) -> Block:
        """Around the four corners where they came to lie."""
        x = np.array([block.left, block.right, block.left, block.right]) - width / 2
        y = np.array([block.top, block.top, block.bottom, block.bottom]) - height / 2
        right = width / 2 + shift[1] + zoom * (x * np.cos(angle) - y * np.sin(angle))
        below = height / 2 + shift[0] + zoom * (x * np.sin(angle) + y * np.cos(angle))
        right, below = np.clip(right, 0, width), np.clip(below, 0, height)
        return Block(block.kind, right.min(), below.min(), right.max(), below.max(), block.text)

    return image, [moved(block) for block in page.blocks]
