"""A page of text as a picture, for a sheet.

Knows Pillow and its built-in font. Knows nothing of where the text is from.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import MissingExtra

_WIDTH, _LINE, _COLUMNS = 448, 14, 76
_INKS = ((24, 96, 150), (160, 70, 20), (40, 120, 60), (120, 50, 130), (130, 100, 10), (60, 60, 60))


def draw_page(title: str, text: str, ink: int = 0, lines: int = 18) -> npt.NDArray[np.uint8]:
    """The start of a text under its title on a coloured bar; uint8 (height, width, 3). ink: chooses the colour."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw a page of text") from error
    page = Image.new("RGB", (_WIDTH, 34 + lines * _LINE), (252, 251, 247))
    pen = ImageDraw.Draw(page)
    font: Any = ImageFont.load_default(size=12)
    pen.rectangle((0, 0, _WIDTH, 20), fill=_INKS[ink % len(_INKS)])
    pen.text((6, 3), _drawable(title), font=font, fill=(255, 255, 255))
    wrapped = [
        part
        for line in text.split("\n")
        for part in (textwrap.wrap(line, _COLUMNS, drop_whitespace=False, replace_whitespace=False) or [""])
    ]
    for number, line in enumerate(wrapped[:lines]):
        pen.text((8, 27 + number * _LINE), _drawable(line), font=font, fill=(20, 20, 24))
    return np.asarray(page)


def _drawable(text: str) -> str:
    """The built-in font has Latin letters only."""
    return text.expandtabs(4).encode("latin-1", "replace").decode("latin-1")
