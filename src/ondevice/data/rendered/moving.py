"""Captioned sprites: stills and clips whose caption is the record of their parameters, and tracked clips.

Knows plain scenes of one object of a named colour at a named place that moves in a named way, and clips in which one
object is to be followed among others of its kind. The reader of these captions is `captions`; the objects are those
of `objects`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ondevice.data.rendered.canvas import (
    Floats,
    Pose,
    Random,
    coverage,
    enlarged,
    expose,
    hsv,
    outlined,
    over,
    pick,
    titled,
)  # fmt: skip
from ondevice.data.rendered.captions import (
    COLOURS,
    MOTIONS,
    OBJECTS_TOLD,
    PLACES,
    caption,
    held_out,
    silhouette,
)
from ondevice.data.rendered.objects import OBJECTS, Style
from ondevice.data.rendered.textures import noise
from ondevice.data.rendered.wardrobe import background, colour, place
from ondevice.data.sets import Array, DataSet, generator
from ondevice.errors import BadInput

VERSION = "1"
_PATTERNS = {"train": ("plain", "stripes", "dots"), "test": ("checks", "waves", "cells")}
_FIELDS = {"train": ("clouds", "blobs", "bricks"), "test": ("waves", "grain", "checks")}
_PIECES = {"train": ("disc", "bar"), "test": ("ring", "cross")}


def captioned(
    split: str, count: int, *, seed: int = 0, size: int = 32, frames: int = 1, speed: float = 1.0
) -> DataSet:
    """Clips (stills with one frame) of one plain object before a soft background, with their captions.

    speed: pixels a frame, of 32, that "slowly" has; "fast" is twice as much. Arrays: images uint8 (n, size, size, 3)
    of a still, clips uint8 (n, frames, size, size, 3) of a clip; objects, colours, places, motions int64, of the
    names in `captions`. Train and test share no pair of object and colour.
    Raises BadInput for no pictures or frames, sizes under 24 and a speed that would leave the picture.
    """
    random = generator("captioned sprites", split, seed)
    path = 2 * speed * (frames - 1)
    if count < 1 or frames < 1 or size < 24 or speed <= 0 or path > 20:
        raise BadInput(
            "captioned sprites need a count and frames of 1, a size of 24 and a path of at most 20 of 32 pixels; "
            f"not {count}, {frames}, {size} and {path:g}"
        )
    pairs = [
        (what, paint)
        for what in range(len(OBJECTS_TOLD))
        for paint in range(len(COLOURS))
        if held_out(what, paint) == (split == "test")
    ]
    clips, told = [], []
    for _ in range(count):
        what, paint = pairs[int(random.integers(len(pairs)))]
        how = int(random.integers(len(MOTIONS))) if frames > 1 else 0
        fits = [where for where in range(len(PLACES)) if _fits(where, how)]
        where = fits[int(random.integers(len(fits)))]
        clips.append(_clip(random, what, paint, where, how, size, frames, speed))
        told.append((what, paint, where, how))
    record = np.array(told, np.int64)
    pictures = np.stack(clips)
    arrays = {"clips": pictures} if frames > 1 else {"images": pictures[:, 0]}
    names = ("objects", "colours", "places", "motions")
    return DataSet("captioned sprites", split, arrays | {name: record[:, i] for i, name in enumerate(names)},
                   OBJECTS_TOLD, {"speed": speed}, VERSION)  # fmt: skip


def captions(samples: DataSet) -> list[str]:
    """The captions of captioned sprites."""
    names = ("objects", "colours", "places", "motions")
    rows = np.stack([samples[name] for name in names], axis=1).tolist()
    return [
        caption(what, paint, where, how if "clips" in samples.arrays else None)
        for what, paint, where, how in rows
    ]


def tracked(
    split: str, count: int, *, seed: int = 0, size: int = 64, frames: int = 60, distractors: int = 3
) -> DataSet:
    """Clips of a patterned object that wanders, grows, shrinks and passes behind a bar, among look-alikes.

    The distractors are of its class, with other patterns and shades. Arrays: clips uint8 (n, frames, size, size, 3);
    masks uint8 (n, frames, size, size), 1 where the object shows, 2, 3, … the distractors; boxes float32 (n, frames,
    4), left, top, right, bottom of the whole object, hidden or not, pixels; visible float32 (n, frames), the share
    of it that shows; labels int64. Patterns, backgrounds and clutter of train and test are disjoint.
    """
    random = generator("tracked sprites", split, seed)
    if count < 1 or frames < 2 or size < 32 or distractors < 0:
        raise BadInput(
            f"tracked sprites need a count of 1, 2 frames and 32 pixels, not {count}, {frames} and {size} "
            f"({distractors} distractors)"
        )
    rows = [_track(random, split, size, frames, distractors) for _ in range(count)]
    arrays: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return DataSet("tracked sprites", split, arrays, tuple(OBJECTS), {}, VERSION)


def draw(samples: DataSet, row: int) -> Array:
    """Four frames beside each other, the object to follow outlined; a still alone; the caption below."""
    frames = samples["clips"][row] if "clips" in samples.arrays else samples["images"][row][None]
    shown = np.linspace(0, len(frames) - 1, min(4, len(frames))).round().astype(int)
    pictures = []
    for frame in shown:
        picture = enlarged(frames[frame], 2)
        if "masks" in samples.arrays:
            outlined(picture, enlarged(samples["masks"][row, frame], 2) == 1, (255, 255, 0))
        pictures.append(picture)
    text = samples.classes[samples["labels"][row]] if "labels" in samples.arrays else captions(samples)[row]
    return titled(np.concatenate(pictures, axis=1), text)


def _fits(where: int, how: int) -> bool:
    """Whether a path through a place stays in the picture: one does that crosses it in the middle."""
    return all(at == 0.5 or step == 0 for at, step in zip(PLACES[where][1], MOTIONS[how][1]))


def _clip(
    random: Random, what: int, paint: int, where: int, how: int, size: int, frames: int, speed: float
) -> Array:
    soft = noise(random, size, size, size / 2, 2)[..., None]
    grey = random.uniform(0.25, 0.75)
    scene = grey + 0.08 * (soft - 0.5) + 0.06 * np.linspace(-1, 1, size)[:, None, None] + np.zeros(3)
    hue = COLOURS[paint][1] + random.uniform(-0.015, 0.015)
    wears = hsv(hue, random.uniform(0.8, 1.0), random.uniform(0.75, 0.95))
    dx, dy, fast = MOTIONS[how][1]
    step = np.array([dx, dy]) * speed * size / 32 * fast
    middle = (np.array(PLACES[where][1]) + random.uniform(-0.03, 0.03, 2)) * size
    scale = size * random.uniform(0.17, 0.2)
    pictures = []
    for frame in range(frames):
        at = middle + step * (frame - (frames - 1) / 2)
        picture = scene.copy()
        pose = Pose(at[0], at[1], scale)
        over(picture, coverage([pose.apply(outline) for outline in silhouette(what)], size, size), wears)
        pictures.append(expose(random, picture, 0.01))
    return np.stack(pictures)


def _track(random: Random, split: str, size: int, frames: int, distractors: int) -> dict[str, Any]:
    label = int(random.integers(len(OBJECTS)))
    name = tuple(OBJECTS)[label]
    scene = background(random, size, size, _FIELDS[split], _PIECES[split])
    base = colour(random)
    actors = []
    for index in range(distractors + 1):
        style = Style(*random.random(3), *(random.random(3) < 0.5))
        shade = base if index == 0 else np.clip(base + random.normal(0, 0.25, 3), 0, 1)
        actors.append((OBJECTS[name](style), pick(random, _PATTERNS[split]), shade, colour(random),
                       int(random.integers(1 << 31)), _path(random, size, frames)))  # fmt: skip
    pole = float(random.uniform(0.25, 0.7)) * size
    bar, pole_paint = np.zeros((size, size)), colour(random)
    bar[:, int(pole) : int(pole + random.uniform(0.1, 0.18) * size)] = 1
    clips, masks, boxes, visible = [], [], [], []
    for frame in range(frames):
        picture, mask = scene.copy(), np.zeros((size, size), np.uint8)
        for index in reversed(range(len(actors))):
            parts, pattern, shade, second, seed, path = actors[index]
            x, y, scale, angle = path[frame]
            pose = Pose(x, y, scale, angle)
            cover = place(np.random.default_rng(seed), picture, parts, pose, pattern, shade, second)
            mask[cover > 0.5] = index + 1
        whole = mask == 1
        over(picture, bar, pole_paint)
        mask[bar > 0.5] = 0
        points = np.concatenate([pose.apply(outline) for part in parts for outline in part.outlines])
        low, high = points.min(0).clip(0, size), points.max(0).clip(0, size)
        boxes.append((*low, *high))
        visible.append((mask == 1).sum() / max(1, whole.sum()))
        masks.append(mask)
        clips.append(expose(random, picture, 0.02))
    return {"clips": np.stack(clips), "masks": np.stack(masks), "boxes": np.array(boxes, np.float32),
            "visible": np.array(visible, np.float32), "labels": np.int64(label)}  # fmt: skip


def _path(random: Random, size: int, frames: int) -> Floats:
    """x, y, scale, angle a frame: smooth wandering that stays in the picture; (frames, 4)."""
    time = np.linspace(0, frames / 60, frames)[:, None] * 2 * np.pi
    turns, phases = random.uniform(0.4, 1.2, 4), random.uniform(0, 2 * np.pi, 4)
    wave = np.sin(time * turns + phases)
    reach = np.array([0.34, 0.34, 0.05, 0.35]) * [size, size, size, 1]
    return np.asarray(np.array([0.5 * size, 0.5 * size, 0.17 * size, 0]) + reach * wave)
