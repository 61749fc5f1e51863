"""Pedestrians seen by several cameras, to find the same one again.

Knows identities (build and clothes), cameras (view, light, balance, blur, background) and the file names of
Market-1501. Bodies are those of `bodies`.

Train and test share no identity: those whose top and trousers fall in an even cell of a 6 by 6 board of hues are for
training, those of odd cells for the test. Cameras are the same, as in the public sets.

Measured on 20 people of the test, 12 pictures each of 3 cameras, 3 of them queries: features of a small ResNet trained
on 480 pictures of 40 others reach a mean average precision of 0.44; of the same network with random weights 0.11; the
pixels themselves 0.23.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.data.rendered.bodies import Looks, Stance, clothed, random_looks
from ondevice.data.rendered.canvas import (
    Pose,
    Random,
    blur,
    box,
    coverage,
    enlarged,
    expose,
    hsv,
    light,
    over,
    titled,
)  # fmt: skip
from ondevice.data.rendered.public import SUFFIXES, read_picture
from ondevice.data.rendered.textures import coloured, texture
from ondevice.data.sets import Array, DataSet, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
_KEPT_FROM = 500
_CELLS = 6
# Of each camera: where people mostly look (yaw), what stands behind, its white balance, how sharp it is, how high it
# hangs (a high one foreshortens).
_CAMERAS = (
    (0.0, "bricks", (1.05, 1.0, 0.9), 0.3, 1.0), (np.pi, "clouds", (0.85, 0.95, 1.15), 0.7, 0.93),
    (np.pi / 2, "stripes", (1.1, 0.95, 0.85), 0.5, 1.04), (-np.pi / 2, "checks", (0.75, 0.8, 0.85), 0.9, 0.88),
    (0.7, "waves", (0.95, 1.1, 0.95), 0.4, 0.96), (-2.4, "speckle", (1.0, 0.9, 1.05), 0.6, 1.0),
)  # fmt: skip


def make(
    split: str, count: int, *, seed: int = 0, identities: int = 0, cameras: int = 3, height: int = 64
) -> DataSet:
    """Pictures of pedestrians, each filling its box as a detector would cut it.

    identities: how many people (0: a sixth of the pictures, one at least); their pictures follow each
    other, from camera to camera in turn. cameras: 2 to 6. height: pixels; the width is half of it.
    Arrays: images uint8 (n, height, height / 2, 3); identities, cameras int64 (n,); hues float32 (n, 2): those of
    the top and of the trousers, of the identity.
    """
    random = generator("pedestrians", split, seed)
    people = identities or max(1, count // 6)
    if count < 1 or height < 32 or height % 2 or not 2 <= cameras <= len(_CAMERAS) or people < 1:
        raise BadInput(
            f"pedestrians need a count of 1, an even height of 32 pixels and 2 to {len(_CAMERAS)} cameras; "
            f"not {count}, {height} and {cameras}"
        )

    def draw_all() -> DataSet:
        looks = [_identity(random, split) for _ in range(people)]
        rows = [
            _draw_one(random, looks, row * people // count, row % cameras, height) for row in range(count)
        ]
        arrays: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return DataSet("pedestrians", split, arrays, (), {"cameras": cameras}, VERSION)

    if count < _KEPT_FROM:
        return draw_all()
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed, "people": people,
                "cameras": cameras, "height": height}  # fmt: skip
    return kept("pedestrians", settings, draw_all)


def draw(samples: DataSet, row: int) -> Array:
    """The picture, three times as large, with the numbers of the person and the camera."""
    return titled(enlarged(samples["images"][row], 3),
                  f"{samples['identities'][row]}, camera {samples['cameras'][row]}")  # fmt: skip


def cell(hues: Array) -> Array:
    """0 for identities of training, 1 for those of the test: the colour of a board's field; hues (..., 2)."""
    board: Array = np.floor(np.asarray(hues) * _CELLS).astype(np.int64).sum(-1) % 2
    return board


def read_market1501(folder: str | Path, *, height: int = 128, part: str = "bounding_box_train") -> DataSet:
    """Market-1501 (and what took over its names: 0002_c1s1_000451_03.jpg is person 2 of camera 1).

    part: "bounding_box_train", "query" or "bounding_box_test". Arrays as of `make`, without hues, scaled to height
    by half of it; identity -1 marks the junk that the protocol leaves out and 0 the distractors. Raises BadInput for
    a missing folder and names of another form.
    """
    where = Path(folder) / part
    if not where.is_dir():
        raise BadInput(f"there is no folder {where}; give the folder that holds bounding_box_train, query, …")
    paths = sorted(path for path in where.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise BadInput(f"{where} holds no pictures; unpack the data set again")
    people, cameras = [], []
    for path in paths:
        name = re.match(r"(-?\d+)_c(\d+)", path.name)
        if name is None:
            raise BadInput(f"{path} is not named like 0002_c1s1_000451_03.jpg; remove it or rename it")
        people.append(int(name[1]))
        cameras.append(int(name[2]) - 1)
    arrays: dict[str, Array] = {
        "images": np.stack([read_picture(path, size=(height, height // 2)) for path in paths]),
        "identities": np.array(people, np.int64), "cameras": np.array(cameras, np.int64),
    }  # fmt: skip
    return DataSet(Path(folder).name, part, arrays, (), {"cameras": max(cameras) + 1})


def _identity(random: Random, split: str) -> tuple[Looks, Array]:
    while True:
        hues = random.random(2)
        if cell(hues) == (split == "test"):
            break
    top, bottom = (hsv(hue, random.uniform(0.25, 0.95), random.uniform(0.2, 0.95)) for hue in hues)
    return replace(random_looks(random), top=top, bottom=bottom), hues.astype(np.float32)


def _draw_one(
    random: Random, looks: list[tuple[Looks, Array]], identity: int, camera: int, height: int
) -> dict[str, Any]:
    wears, hues = looks[identity]
    width = height // 2
    yaw, pattern, balance, softness, squeeze = _CAMERAS[camera]
    ground = hsv(random.random(), random.uniform(0, 0.4), random.uniform(0.3, 0.8))
    behind = texture(random, pattern, height, width, height * random.uniform(0.15, 0.3))
    picture = coloured(behind, ground, ground * random.uniform(0.6, 0.9))
    picture[int(height * random.uniform(0.55, 0.8)) :] *= random.uniform(0.6, 0.9)
    if random.random() < 0.25:  # someone else walks by behind
        _put(
            random,
            picture,
            random_looks(random),
            random.uniform(-np.pi, np.pi),
            random.choice([0.05, 0.95]),
            0.8,
        )
    _put(random, picture, wears, yaw + random.normal(0, 0.35), 0.5 + random.normal(0, 0.05), squeeze)
    if random.random() < 0.25:  # something stands in front
        side, top = random.choice([-1, 1]), random.uniform(0.4, 0.75)
        edge = width * (0.5 + side * random.uniform(0.15, 0.35))
        left, right = min(edge, edge + side * width), max(edge, edge + side * width)
        outline = box(left, height * top, right, height + 1)
        over(picture, coverage([outline], height, width), hsv(random.random(), 0.4, random.uniform(0.2, 0.7)))
    picture = picture * light(random, height, width, random.uniform(0, 0.7)) * np.array(balance)
    picture = blur(picture * random.uniform(0.7, 1.15), softness * height / 64 * random.uniform(0.6, 1.2))
    return {"images": expose(random, picture, random.uniform(0.01, 0.04)), "identities": np.int64(identity),
            "cameras": np.int64(camera), "hues": hues}  # fmt: skip


def _put(random: Random, picture: Array, looks: Looks, yaw: float, across: float, squeeze: float) -> None:
    height, width = picture.shape[:2]
    step = random.uniform(0.05, 0.5) * random.choice([-1, 1])
    stance = Stance(yaw, random.normal(0, 0.03), (step, -step), (random.uniform(0.05, 0.4),) * 2, (0.03, 0.03),
                    (-step * 0.8, step * 0.8), (random.uniform(0.1, 0.6),) * 2, (0.12, 0.12))  # fmt: skip
    tall = height * random.uniform(0.86, 0.96)
    pose = Pose(width * across, height * (0.5 + random.normal(0, 0.015)), tall, stretch=1 / squeeze)
    for limb in clothed(stance, looks):
        over(
            picture, coverage([pose.apply(outline) for outline in limb.outlines], height, width), limb.colour
        )
