"""Captions of plain sprites, written from parameters and read back from pixels.

Knows names of objects, colours, places and motions, and how to measure each in a picture: the judge of generated
pictures and clips. Knows nothing of how the pictures were made, but for the objects' silhouettes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import Floats, Pose, coverage
from ondevice.data.rendered.objects import OBJECTS, Style
from ondevice.errors import BadInput

OBJECTS_TOLD = ("bottle", "car", "cat", "fish", "house", "key", "plane", "tree", "umbrella", "cup")
COLOURS = (
    ("red", 0.0),
    ("yellow", 1 / 6),
    ("green", 1 / 3),
    ("cyan", 0.5),
    ("blue", 2 / 3),
    ("magenta", 5 / 6),
)
PLACES = (
    ("in the middle", (0.5, 0.5)), ("on the left", (0.3, 0.5)), ("on the right", (0.7, 0.5)),
    ("at the top", (0.5, 0.3)), ("at the bottom", (0.5, 0.7)),
)  # fmt: skip
MOTIONS = (
    ("at rest", (0, 0, 0)), ("slowly to the left", (-1, 0, 1)), ("slowly to the right", (1, 0, 1)),
    ("slowly up", (0, -1, 1)), ("slowly down", (0, 1, 1)), ("fast to the left", (-1, 0, 2)),
    ("fast to the right", (1, 0, 2)), ("fast up", (0, -1, 2)), ("fast down", (0, 1, 2)),
)  # fmt: skip
_SIDE = 24  # pixels to which silhouettes are scaled to be compared


@dataclass(frozen=True)
class Reading:
    """What was read: indices of the names above. motion: None for a still. sure: agreement of the silhouette with
    the object's, 0 to 1 (intersection over union)."""

    object: int
    colour: int
    place: int
    motion: int | None
    sure: float


def caption(what: int, colour: int, place: int, motion: int | None = None) -> str:
    """A caption such as "a red car on the left, moving slowly up"."""
    start = f"a {COLOURS[colour][0]} {OBJECTS_TOLD[what]} {PLACES[place][0]}"
    if motion is None:
        return start
    return f"{start}, {'' if motion == 0 else 'moving '}{MOTIONS[motion][0]}"


def held_out(what: int, colour: int) -> bool:
    """Whether this pair of object and colour is kept for the test: one in six of each object."""
    return colour == (5 * what + 2) % len(COLOURS)


def silhouette(what: int) -> list[Floats]:
    """The outlines of an object in its plain style, its box centred at 0 and its longer half-side 1."""
    outlines = [outline for part in OBJECTS[OBJECTS_TOLD[what]](Style()) for outline in part.outlines]
    points = np.concatenate(outlines)
    low, high = points.min(0), points.max(0)
    return [(outline - (low + high) / 2) * 2 / (high - low).max() for outline in outlines]


def read(pictures: npt.NDArray[np.uint8], *, speed: float = 1.0) -> Reading:
    """Read a still (h, w, 3) or a clip (frames, h, w, 3), drawn or generated: one saturated object before grey.

    speed: pixels of 32 a frame that count as slow. Colour: the mean hue of what is saturated; place: the nearest
    of the named ones to the mean centre; motion: the straight line through the centres; object: the silhouette
    that agrees most, scaled to its own box. Raises BadInput for other shapes.
    """
    clip = pictures[None] if pictures.ndim == 3 else pictures
    if clip.ndim != 4 or clip.shape[3] != 3 or clip.dtype != np.uint8:
        raise BadInput(
            f"a still is uint8 (h, w, 3), a clip (frames, h, w, 3), not {pictures.dtype} {pictures.shape}"
        )
    values = clip.astype(np.float64) / 255
    chroma = values.max(3) - values.min(3)
    size = clip.shape[1]
    masks = [_largest(frame > max(0.2, 0.5 * float(np.quantile(frame, 0.98)))) for frame in chroma]
    centres = np.array([_centre(mask) for mask in masks])
    middle = centres.mean(0) / size
    place = int(np.argmin([np.hypot(*(middle - at)) for _, at in PLACES]))
    weight = chroma * np.stack(masks)
    mean = (values * weight[..., None]).sum((0, 1, 2)) / max(float(weight.sum()), 1e-9)
    hue = _hue(mean)
    colour = int(np.argmin([abs((hue - at + 0.5) % 1 - 0.5) for _, at in COLOURS]))
    looked_at = masks[:: max(1, len(masks) // 4)]
    every = [[_agreement(mask, what) for what in range(len(OBJECTS_TOLD))] for mask in looked_at]
    agreements = np.mean(every, axis=0)
    motion = None
    if len(clip) > 1:
        pace = np.polyfit(np.arange(len(clip)), centres, 1)[0] * 32 / size / speed
        motion = int(
            np.argmin([np.hypot(*(pace - np.array([dx, dy]) * fast)) for _, (dx, dy, fast) in MOTIONS])
        )
    return Reading(int(np.argmax(agreements)), colour, place, motion, float(agreements.max()))


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest connected piece (eight neighbours)."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        grown = np.max(
            [padded[i : i + mask.shape[0], j : j + mask.shape[1]] for i in range(3) for j in range(3)], 0
        )
        grown[~mask] = 0
        if np.array_equal(grown, labels):
            break
        labels = grown
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    return np.asarray((labels == counts.argmax()) & mask)


def _centre(mask: npt.NDArray[np.bool_]) -> Floats:
    """The middle of its box, (x, y): where an object stands, whatever its weight."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.array([mask.shape[1] / 2, mask.shape[0] / 2])
    return np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]) / 2


def _agreement(mask: npt.NDArray[np.bool_], what: int) -> float:
    rows, columns = np.nonzero(mask)
    if len(rows) < 4:
        return 0.0
    high, wide = rows.max() + 1 - rows.min(), columns.max() + 1 - columns.min()
    longer = max(high, wide)
    # Sample a square about the box, so that proportions count.
    y = ((np.arange(_SIDE) + 0.5) / _SIDE - 0.5) * longer + (rows.min() + rows.max() + 1) / 2
    x = ((np.arange(_SIDE) + 0.5) / _SIDE - 0.5) * longer + (columns.min() + columns.max() + 1) / 2
    inside_y, inside_x = (y >= 0) & (y < mask.shape[0]), (x >= 0) & (x < mask.shape[1])
    scaled = mask[np.ix_(y.astype(int).clip(0, mask.shape[0] - 1), x.astype(int).clip(0, mask.shape[1] - 1))]
    scaled = scaled & inside_y[:, None] & inside_x[None]
    known = _template(what)
    return float((scaled & known).sum() / max(1, (scaled | known).sum()))


@cache
def _template(what: int) -> npt.NDArray[np.bool_]:
    pose = Pose(_SIDE / 2, _SIDE / 2, _SIDE / 2)
    return np.asarray(coverage([pose.apply(outline) for outline in silhouette(what)], _SIDE, _SIDE) > 0.5)


def _hue(colour: Floats) -> float:
    red, green, blue = colour
    high, low = colour.max(), colour.min()
    if high - low < 1e-6:
        return 0.0
    if high == red:
        turn = (green - blue) / (high - low) % 6
    elif high == green:
        turn = (blue - red) / (high - low) + 2
    else:
        turn = (red - green) / (high - low) + 4
    return float(turn / 6)
