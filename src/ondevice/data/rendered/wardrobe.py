"""What objects wear and where they stand: paints with patterns, backgrounds with clutter, occluders.

Knows the object outlines of `objects` and how to lay them on a picture. Knows nothing of sets or splits: which
patterns may be used is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import (
    Floats,
    Pose,
    Random,
    arc,
    blur,
    box,
    coverage,
    ellipse,
    hsv,
    over,
    pick,
    stroke,
)  # fmt: skip
from ondevice.data.rendered.objects import Part
from ondevice.data.rendered.textures import coloured, texture

FIXED = {"dark": (0.10, 0.10, 0.12), "pale": (0.93, 0.91, 0.86), "glass": (0.60, 0.75, 0.85),
         "green": (0.20, 0.50, 0.18), "orange": (0.95, 0.60, 0.10)}  # fmt: skip


def colour(random: Random) -> Floats:
    """Any colour, rarely a pale one."""
    return hsv(random.random(), random.uniform(0.35, 1.0), random.uniform(0.35, 1.0))


def place(
    random: Random,
    picture: Floats,
    parts: Sequence[Part],
    pose: Pose,
    pattern: str,
    main: Floats,
    second: Floats,
) -> npt.NDArray[np.float32]:
    """Draw an object into `picture` in place, shaded from one side; what it covers (height, width).

    pattern: the texture of its main paint, of which the other colour is a lighter or darker main.
    """
    height, width = picture.shape[:2]
    whole = np.zeros((height, width), np.float32)
    other = np.clip(main * random.uniform(0.35, 0.6) + (random.random() < 0.5) * 0.4, 0, 1)
    cloth = coloured(
        texture(random, pattern, height, width, pose.scale * random.uniform(0.25, 0.5)), main, other
    )
    y, x = np.mgrid[:height, :width]
    side = random.uniform(0, 2 * np.pi)
    lit = 1 + 0.3 * (((x - pose.x) * np.cos(side) + (y - pose.y) * np.sin(side)) / pose.scale)[..., None]
    for part in parts:
        cover = coverage([pose.apply(outline) for outline in part.outlines], height, width)
        paint = (
            cloth
            if part.paint == "main"
            else second
            if part.paint == "second"
            else np.array(FIXED[part.paint])
        )
        over(picture, cover, np.clip(paint * lit, 0, 1))
        whole = np.maximum(whole, cover)
    return whole


def shadow(random: Random, picture: Floats, cover: npt.NDArray[np.float32]) -> None:
    """A soft shadow of what will be drawn where `cover` is, thrown aside, in place."""
    down, right = random.integers(-4, 5, 2)
    thrown = blur(
        np.roll(cover, (int(down), int(right)), (0, 1)).astype(np.float64), random.uniform(0.8, 2.5)
    )
    picture *= 1 - random.uniform(0.1, 0.45) * thrown[..., None]


def background(
    random: Random, height: int, width: int, patterns: Sequence[str], pieces: Sequence[str]
) -> Floats:
    """Two or three patterned fields and a few pieces of clutter; (height, width, 3).

    pieces: of "disc", "bar", "wedge" (one family) and "ring", "cross", "bow" (another).
    """

    def field() -> Floats:
        value = random.uniform(0.15, 0.95)
        tones = [hsv(random.random(), random.uniform(0, 0.7), np.clip(value + change, 0.05, 1))
                 for change in (0, random.normal(0, 0.25))]  # fmt: skip
        return coloured(
            texture(random, pick(random, patterns), height, width, random.uniform(0.1, 0.35) * width), *tones
        )

    picture = field()
    if random.random() < 0.6:
        angle, offset = random.uniform([0, -0.3], [2 * np.pi, 0.3])
        y, x = np.mgrid[:height, :width]
        side = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) - offset
        over(picture, np.clip(side * width, 0, 1), field())
    for _ in range(int(random.integers(1, 6))):
        clutter(random, picture, pieces, random.uniform(0.05, 0.17) * width)
    return picture


def clutter(random: Random, picture: Floats, pieces: Sequence[str], size: float) -> None:
    """One piece of this size (half its width, pixels), anywhere, in place."""
    height, width = picture.shape[:2]
    pose = Pose(random.uniform(0, width), random.uniform(0, height), size, random.uniform(0, 2 * np.pi),
                random.uniform(0.5, 2.0))  # fmt: skip
    over(
        picture,
        coverage([pose.apply(each) for each in _piece(pick(random, pieces))], height, width),
        colour(random),
    )


def occluder(
    random: Random, height: int, width: int, pose: Pose, patterns: Sequence[str]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Something that hides one side of what stands at `pose`: its cover and its paint."""
    angle = random.uniform(0, 2 * np.pi)
    away = pose.scale * random.uniform(0.75, 1.1)
    x, y = pose.x + away * np.cos(angle), pose.y + away * np.sin(angle)
    lying = Pose(x, y, pose.scale, angle + random.normal(0, 0.3))
    outline = box(-0.22, -1.6, 0.6, 1.6) if random.random() < 0.5 else ellipse(0.15, 0, 0.5, 0.75)
    paint = coloured(
        texture(random, pick(random, patterns), height, width, 0.4 * pose.scale),
        colour(random),
        colour(random),
    )
    return coverage([lying.apply(outline)], height, width), paint


def _piece(kind: str) -> list[Floats]:
    if kind == "disc":
        return [ellipse(0, 0, 1)]
    if kind == "bar":
        return [box(-1, -0.35, 1, 0.35)]
    if kind == "wedge":
        return [np.array([(-1.0, 0.8), (1.0, 0.8), (0.1, -0.9)])]
    if kind == "ring":
        return stroke(arc(0, 0, 0.9, 0.9, 0, 2 * np.pi), 0.35)
    if kind == "cross":
        return [box(-1, -0.25, 1, 0.25), box(-0.25, -1, 0.25, 1)]
    return stroke(arc(0, 0.4, 0.9, 1.1, np.pi, 2 * np.pi), 0.4)  # a bow
