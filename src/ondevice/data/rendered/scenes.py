"""Street scenes with a class for each pixel, instances and depth.

Knows which kinds of things are in which split, the weather, and the layout of public segmentation sets. Knows
nothing of how a thing is drawn: that is `street`.

Train and test share no kind of facade, paving, tree, car, sign or sky, nor gabled roofs and long coats (test only).

Measured on 300 of the test: reference-unet reaches a mean intersection over union of 0.787 (95.2 % of the pixels), a
linear head on its features with frozen random weights 0.105 (46.9 %).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ondevice.data.rendered import street as streets
from ondevice.data.rendered.canvas import Random, blur, enlarged, expose, jitter, light, pick
from ondevice.data.rendered.public import paired, read_picture, stacked
from ondevice.data.sets import Array, DataSet, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
CLASSES = streets.CLASSES
COLOURS = np.array(
    [(110, 170, 230), (110, 100, 115), (215, 190, 205), (150, 110, 85), (80, 150, 60), (40, 60, 200), (220, 40, 60),
     (240, 200, 40)], np.uint8
)  # fmt: skip
FACTORS = {
    "train": {"facade": ("plain", "bricks", "clouds"), "paving": ("checks", "speckle"), "tree": ("round", "conifer"),
              "car": ("saloon", "van"), "sign": ("disc", "board"), "sky": ("clear", "overcast")},
    "test": {"facade": ("stripes", "grain", "cells"), "paving": ("bricks", "dots"), "tree": ("cluster", "poplar"),
             "car": ("pickup", "mini"), "sign": ("wedge", "diamond"), "sky": ("cloudy", "sunset")},
}  # fmt: skip
_KEPT_FROM = 200


def make(split: str, count: int, *, seed: int = 0, height: int = 64, width: int = 96) -> DataSet:
    """Scenes from a camera at eye height.

    Arrays: images uint8 (n, height, width, 3); masks uint8 (n, height, width), indices of `classes`; instances uint8
    (n, height, width), 0 for none, else the same number on all pixels of one car or person; depths float32
    (n, height, width), metres, 200 for the sky.
    Raises BadInput for other splits, no pictures, and sides under 32 pixels.
    """
    random = generator("scenes", split, seed)
    if count < 1 or min(height, width) < 32:
        raise BadInput(
            f"scenes need a count of 1 and sides of 32 pixels or more, not {count}, {height}, {width}"
        )

    def draw_all() -> DataSet:
        rows = [_draw_one(random, split, height, width) for _ in range(count)]
        arrays: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return DataSet("scenes", split, arrays, CLASSES, {"unit of depths": "m"}, VERSION)

    if count < _KEPT_FROM:
        return draw_all()
    settings = {
        "version": VERSION,
        "split": split,
        "count": count,
        "seed": seed,
        "height": height,
        "width": width,
    }
    return kept("scenes", settings, draw_all)


def draw(samples: DataSet, row: int) -> Array:
    """The picture above its classes in colours, both twice as large."""
    picture, mask = samples["images"][row], samples["masks"][row]
    return np.concatenate([enlarged(each, 2) for each in (picture, COLOURS[mask % len(COLOURS)])])


def read_segmentation(folder: str | Path, classes: tuple[str, ...], *, ignore: int = 255) -> DataSet:
    """Pictures and masks of the layout of PASCAL VOC (JPEGImages/ID.jpg, SegmentationClass/ID.png), of Cityscapes
    (leftImg8bit/**/ID_leftImg8bit.png, gtFine/**/ID_gtFine_labelTrainIds.png), or images/ beside masks/.

    All pictures must have one size. Masks keep their numbers; `ignore` marks pixels without a class. Raises BadInput
    where a mask is missing, has another size, or names a class that `classes` lacks.
    """
    folder = Path(folder)
    pairs = paired(
        folder,
        (
            ("JPEGImages", "", "SegmentationClass", ""),
            ("leftImg8bit", "_leftImg8bit", "gtFine", "_gtFine_labelTrainIds"),
            ("images", "", "masks", ""),
        ),
    )
    images, masks = [], []
    for picture, label in pairs:
        images.append(read_picture(picture))
        masks.append(read_picture(label, colours=False))
        if masks[-1].shape != images[-1].shape[:2]:
            raise BadInput(
                f"{label} has {masks[-1].shape} pixels and its picture {images[-1].shape[:2]}; they must agree"
            )
        unknown = set(np.unique(masks[-1]).tolist()) - {*range(len(classes)), ignore}
        if unknown:
            raise BadInput(
                f"{label} holds classes {sorted(unknown)}, but there are {len(classes)}; name all classes"
            )
    return DataSet(
        folder.name,
        "public",
        {"images": stacked(images, folder), "masks": np.stack(masks)},
        classes,
        {"ignore": ignore},
    )


def _draw_one(random: Random, split: str, height: int, width: int) -> dict[str, Any]:
    kinds, unseen = FACTORS[split], split == "test"
    street = streets.Street(random, height, width)
    streets.sky(street, pick(random, kinds["sky"]))
    edge = streets.floor(street, kinds["paving"])
    streets.buildings(street, edge, kinds["facade"], unseen)
    things: list[tuple[float, str, float]] = []
    for _ in range(int(random.integers(0, 4))):
        things.append(
            (random.uniform(6, 30), "tree", random.choice([-1, 1]) * (edge + random.uniform(-0.8, 2.0)))
        )
    for _ in range(int(random.integers(0, 3))):
        things.append(
            (random.uniform(5, 16), "sign", random.choice([-1, 1]) * (edge - random.uniform(0.4, 1.6)))
        )
    for _ in range(int(random.integers(1, 5))):
        things.append((random.uniform(4.5, 25), "car", random.uniform(-0.75, 0.75) * (edge - 2)))
    for _ in range(int(random.integers(0, 5))):
        beside = random.choice([-1, 1]) * (edge - random.uniform(0.2, 2.2))
        things.append(
            (random.uniform(3.5, 14), "person", beside if random.random() < 0.8 else random.uniform(-2, 2))
        )
    for instance, (z, thing, x) in enumerate(sorted(things, reverse=True), start=1):
        if thing == "tree":
            streets.tree(street, x, z, pick(random, kinds["tree"]))
        elif thing == "sign":
            streets.sign(street, x, z, pick(random, kinds["sign"]))
        elif thing == "car":
            streets.car(street, x, z, pick(random, kinds["car"]), instance)
        else:
            streets.person(street, x, z, unseen and bool(random.random() < 0.5), instance)
    haze = np.exp(-street.depth / random.uniform(60, 250))[..., None]
    picture = street.picture * haze + np.array([0.75, 0.78, 0.82]) * (1 - haze) * (street.classes > 0)[..., None] + \
        street.picture * (1 - haze) * (street.classes == 0)[..., None]  # fmt: skip
    picture = picture * light(random, height, width, random.uniform(0, 0.6)) * random.uniform(0.6, 1.1)
    picture = jitter(random, blur(picture, random.uniform(0, 0.7)), 0.5)
    return {"images": expose(random, picture, random.uniform(0.005, 0.04)), "masks": street.classes,
            "instances": street.instances, "depths": street.depth}  # fmt: skip
