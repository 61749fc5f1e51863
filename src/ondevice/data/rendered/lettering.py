"""Printed letters. Knows fonts and where they are found. Knows nothing of pages.

Train: DejaVu Serif and DejaVu Sans Mono. Test: DejaVu Sans and Aileron, which Pillow has built in. No others, even
where they are installed: a set must not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import generator
from ondevice.errors import MissingExtra, MissingTool


@dataclass(frozen=True)
class Font:
    """regular, bold: names of the files; none for Pillow's own, which has no bold."""

    name: str
    regular: str = ""
    bold: str = ""


_FONTS = {
    "train": (
        Font("DejaVu Serif", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
        Font("DejaVu Sans Mono", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf"),
    ),
    "test": (Font("DejaVu Sans", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"), Font("Aileron")),
}


def fonts(split: str) -> tuple[Font, ...]:
    """The fonts of a split. Raises MissingTool, with the package to install, where one is not there."""
    generator("fonts", split, 0)  # refuses another split
    for font in _FONTS[split]:
        _face(font, 12, False)
    return _FONTS[split]


def width(font: Font, text: str, pixels: int, bold: bool = False) -> float:
    """How wide a line of text is, in pixels, with letters of this size."""
    return float(_face(font, pixels, bold).getlength(text))


def letters(
    font: Font, text: str, pixels: int, across: int, down: int, bold: bool = False
) -> npt.NDArray[np.float32]:
    """A line of text from the left, on its baseline at four fifths of `down`: coverage 0..1, (down, across)."""
    from PIL import Image, ImageDraw

    page = Image.new("L", (across, down))
    ImageDraw.Draw(page).text(
        (0, round(0.8 * down)), text, fill=255, font=_face(font, pixels, bold), anchor="ls"
    )
    return np.asarray(np.asarray(page, np.float32) / 255, np.float32)


@cache
def _face(font: Font, pixels: int, bold: bool) -> Any:
    try:
        from PIL import ImageFont
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw letters") from error
    if not font.regular:
        return ImageFont.load_default(pixels)
    try:
        return ImageFont.truetype(font.bold if bold else font.regular, pixels)
    except OSError as error:
        raise MissingTool(
            f"the font {font.name} is not installed; run: apt install fonts-dejavu-core"
        ) from error
