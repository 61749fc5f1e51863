"""What every rendered set draws with: shapes as outlines, antialiased coverage, paint, light, lens and sensor.

Knows pictures as float arrays (height, width, 3), 0 to 1, coordinates in pixels, x to the right and y down. Knows
nothing of what is drawn. Every outline is a polygon, so that one pose moves whatever is made of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ondevice.errors import MissingExtra

Floats = npt.NDArray[np.float64]
Random = np.random.Generator
_FINE = 4  # samples a pixel along each axis


@dataclass(frozen=True)
class Pose:
    """Where the unit square (-1..1, y down) of an object lies in a picture.

    x, y: its centre, pixels. scale: pixels of half its side. angle: radians, clockwise on the screen.
    stretch: width over height. shear: x gained a unit of y. flip: left for right.
    """

    x: float
    y: float
    scale: float
    angle: float = 0.0
    stretch: float = 1.0
    shear: float = 0.0
    flip: bool = False

    def apply(self, outline: npt.ArrayLike) -> Floats:
        """(n, 2) in the object -> (n, 2) in the picture."""
        points = np.asarray(outline, np.float64)
        wide = np.sqrt(self.stretch)
        x = (points[:, 0] + self.shear * points[:, 1]) * (-wide if self.flip else wide)
        y = points[:, 1] / wide
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        return np.stack(
            [self.x + self.scale * (cosine * x - sine * y), self.y + self.scale * (sine * x + cosine * y)], 1
        )


def ellipse(x: float, y: float, across: float, down: float | None = None, angle: float = 0.0) -> Floats:
    """An ellipse about (x, y) with these radii (a circle with one), turned by `angle`; (40, 2)."""
    return arc(x, y, across, across if down is None else down, 0, 2 * np.pi, angle, count=41)[:-1]


def arc(
    x: float,
    y: float,
    across: float,
    down: float,
    start: float,
    end: float,
    angle: float = 0.0,
    count: int = 24,
) -> Floats:
    """Points of an ellipse from one angle to another: 0 is right, pi/2 down; (count, 2)."""
    turn = np.linspace(start, end, count)
    a, b = across * np.cos(turn), down * np.sin(turn)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([x + cosine * a - sine * b, y + sine * a + cosine * b], 1)


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> Floats:
    """A rectangle, its corners rounded by this radius."""
    if corner <= 0:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    corner = min(corner, (right - left) / 2, (bottom - top) / 2)
    half = np.pi / 2
    return np.concatenate(
        [
            arc(right - corner, top + corner, corner, corner, -half, 0, count=6),
            arc(right - corner, bottom - corner, corner, corner, 0, half, count=6),
            arc(left + corner, bottom - corner, corner, corner, half, 2 * half, count=6),
            arc(left + corner, top + corner, corner, corner, 2 * half, 3 * half, count=6),
        ]
    )


def stroke(line: npt.ArrayLike, width: float, end_width: float | None = None) -> list[Floats]:
    """A line through points, as outlines: a four-sided piece a segment and a disc a joint.

    end_width: the width at its last point where it tapers.
    """
    points = np.asarray(line, np.float64)
    widths = np.linspace(width, width if end_width is None else end_width, len(points)) / 2
    pieces = [arc(x, y, half, half, 0, 2 * np.pi, count=13) for (x, y), half in zip(points, widths)]
    for (start, end), (first, last) in zip(pairwise(points), pairwise(widths)):
        along = end - start
        length = float(np.hypot(*along))
        if length > 0:
            across = np.array([-along[1], along[0]]) / length
            pieces.append(
                np.stack(
                    [start + first * across, end + last * across, end - last * across, start - first * across]
                )
            )
    return pieces


def coverage(outlines: Iterable[npt.ArrayLike], height: int, width: int) -> npt.NDArray[np.float32]:
    """The share of each pixel that lies in any of the outlines, 0 to 1; (height, width). Edges are true to a
    quarter of a pixel."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw pictures") from error
    fine = Image.new("L", (width * _FINE, height * _FINE))
    pen = ImageDraw.Draw(fine)
    for outline in outlines:
        points = (
            np.asarray(outline, np.float64) * _FINE - 0.5
        )  # whole numbers are centres of pixels to Pillow
        pen.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(fine.reduce(_FINE), np.float32) / np.float32(255)


def over(picture: Floats, cover: npt.ArrayLike, paint: npt.ArrayLike) -> None:
    """Lay paint, a colour (3,) or a picture, over `picture` in place where it is covered (height, width)."""
    share = np.asarray(cover, np.float64)[..., None]
    picture += share * (np.asarray(paint, np.float64) - picture)


def hsv(hue: npt.ArrayLike, saturation: npt.ArrayLike, value: npt.ArrayLike) -> Floats:
    """Red, green, blue (..., 3) of hue (0..1, around), saturation and value (0..1)."""
    turned = (np.asarray(hue, np.float64)[..., None] * 6 + np.array([5.0, 3.0, 1.0])) % 6
    grey = np.clip(np.minimum(turned, 4 - turned), 0, 1)
    strong, bright = (np.asarray(part, np.float64)[..., None] for part in (saturation, value))
    return np.asarray(bright * (1 - strong * grey))


def blur(picture: Floats, radius: float) -> Floats:
    """Gaussian blur with this standard deviation in pixels, of (height, width) or (height, width, channels)."""
    if radius < 0.2:
        return picture
    reach = int(np.ceil(3 * radius))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / radius) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padding = [(0, 0)] * picture.ndim
        padding[axis] = (reach, reach)
        wide = np.pad(picture, padding, mode="edge")
        size = picture.shape[axis]
        picture = sum(
            (weight * wide.take(range(start, start + size), axis) for start, weight in enumerate(weights)),
            start=np.zeros_like(picture),
        )
    return picture


def light(random: Random, height: int, width: int, strength: float) -> Floats:
    """How bright each pixel is lit, about 1: a slope in some direction and a bright spot; (height, width, 1)."""
    angle, spot_x, spot_y, reach = random.uniform([0, 0, 0, 0.4], [2 * np.pi, 1, 1, 0.9])
    y, x = np.mgrid[:height, :width]
    x, y = x / width, y / height
    slope = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    spot = np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / reach**2) - 0.5
    return np.asarray(1 + strength * (slope + 0.6 * spot))[..., None]


def jitter(random: Random, picture: Floats, strength: float) -> Floats:
    """Other white balance, saturation, contrast, brightness and gamma, as other cameras would give."""
    balance = np.exp(random.normal(0, 0.25 * strength, 3))
    saturation, contrast, gamma = np.exp(random.normal(0, [0.4 * strength, 0.3 * strength, 0.3 * strength]))
    brightness = random.normal(0, 0.12 * strength)
    picture = picture * balance
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + saturation * (picture - grey)
    picture = 0.5 + contrast * (picture - 0.5) + brightness
    return np.asarray(np.clip(picture, 0, 1) ** gamma)


def expose(random: Random, picture: Floats, noise: float) -> npt.NDArray[np.uint8]:
    """What a sensor records: shot and read noise of this standard deviation at mid-grey, then 8 bits."""
    clean = np.clip(picture, 0, 1)
    noisy = clean + random.normal(0, 1, clean.shape) * noise * np.sqrt(0.25 + 1.5 * clean)
    return np.round(255 * np.clip(noisy, 0, 1)).astype(np.uint8)


def pick(random: Random, choices: Sequence[str]) -> str:
    """One of them."""
    return choices[int(random.integers(len(choices)))]


def outlined(picture: npt.NDArray[np.uint8], mask: npt.NDArray[np.bool_], colour: Sequence[int]) -> None:
    """Draw the outer border of a mask, one pixel wide, in place: how sheets show the truth of a picture."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    picture[grown & ~mask] = colour


def enlarged(picture: npt.NDArray[np.uint8], times: int) -> npt.NDArray[np.uint8]:
    """Every pixel as a square of `times` pixels."""
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def titled(picture: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    """The picture with a line of text below it."""
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw pictures") from error
    strip = Image.new("RGB", (picture.shape[1], 16), "white")
    ImageDraw.Draw(strip).text((2, 2), text, "black")
    return np.concatenate([picture, np.asarray(strip, np.uint8)])
