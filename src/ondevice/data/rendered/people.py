"""People with their joints: one to three articulated figures a picture, overlapping, in the seventeen joints of COCO.

Knows how people stand in a picture and the layout of COCO's keypoint files. Bodies and clothes are those of `bodies`.

Train and test share no stance family (train: standing, walking, waving; test: running, star, sitting), no pattern
behind people and no clutter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.data.rendered.bodies import BONES, JOINTS, Stance, clothed, joints, random_looks
from ondevice.data.rendered.canvas import (
    Pose,
    Random,
    blur,
    coverage,
    enlarged,
    expose,
    jitter,
    light,
    over,
    stroke,
)  # fmt: skip
from ondevice.data.rendered.public import read_picture, stacked
from ondevice.data.rendered.wardrobe import background
from ondevice.data.sets import Array, DataSet, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
MOST = 3  # people in a picture
STANCES = {"train": ("standing", "walking", "waving"), "test": ("running", "star", "sitting")}
_FIELDS = {"train": ("plain", "clouds", "stripes", "blobs"), "test": ("cells", "waves", "grain", "bricks")}
_PIECES = {"train": ("disc", "bar", "wedge"), "test": ("ring", "cross", "bow")}
_KEPT_FROM = 300
_REACH = 0.07  # nearness by which a part may cover a joint and leave it visible: half a limb


def make(split: str, count: int, *, seed: int = 0, size: int = 96) -> DataSet:
    """Pictures of one to three people.

    Arrays: images uint8 (n, size, size, 3); keypoints float32 (n, 3, 17, 3), x and y in pixels and COCO's v, 0 where
    there is no such person or the joint lies outside, 1 hidden, 2 visible; boxes float32 (n, 3, 4), left, top, right,
    bottom of what shows, zeros where nobody is; masks uint8 (n, size, size), 1 + the person that shows;
    stances int64 (n, 3), -1 for nobody. Names of the joints are `classes`.
    """
    random = generator("people", split, seed)
    if count < 1 or size < 48:
        raise BadInput(f"people need a count of 1 and a size of 48 pixels, not {count} and {size}")

    def draw_all() -> DataSet:
        rows = [_draw_one(random, split, size) for _ in range(count)]
        arrays: dict[str, Array] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return DataSet("people", split, arrays, JOINTS, {"bones": [list(bone) for bone in BONES]}, VERSION)

    if count < _KEPT_FROM:
        return draw_all()
    settings = {"version": VERSION, "split": split, "count": count, "seed": seed, "size": size}
    return kept("people", settings, draw_all)


def draw(samples: DataSet, row: int) -> Array:
    """The picture, twice as large, with the bones of each person; hidden joints are hollow."""
    picture = enlarged(samples["images"][row], 2)
    paper = picture.astype(np.float64) / 255
    height, width = picture.shape[:2]
    hues = ((1.0, 0.9, 0.0), (0.0, 1.0, 1.0), (1.0, 0.3, 1.0))
    for person, points in enumerate(samples["keypoints"][row]):
        lines = [
            stroke(points[list(bone), :2] * 2, 1.2) for bone in BONES if (points[list(bone), 2] > 0).all()
        ]
        if lines:
            over(
                paper,
                0.7 * coverage([piece for line in lines for piece in line], height, width),
                hues[person % 3],
            )
        for x, y, shown in points:
            if shown:
                over(paper, coverage(stroke([(2 * x, 2 * y)], 4), height, width), hues[person % 3])
            if shown == 1:
                over(paper, coverage(stroke([(2 * x, 2 * y)], 2), height, width), (0, 0, 0))
    return np.round(paper * 255).astype(np.uint8)


def read_coco_keypoints(annotations: str | Path, images: str | Path, *, most: int = MOST) -> DataSet:
    """COCO's person_keypoints_*.json and its folder of pictures, all of one size; people without joints left out.

    Arrays as of `make`, without masks and stances; a picture keeps its `most` people with the most joints. Raises
    BadInput for a missing or malformed file, naming it.
    """
    path = Path(annotations)
    try:
        content = json.loads(path.read_text())
        files = {entry["id"]: entry["file_name"] for entry in content["images"]}
        found = [(entry["image_id"], entry["keypoints"], entry["bbox"]) for entry in content["annotations"]]
    except FileNotFoundError as error:
        raise BadInput(
            f"there is no {path}; download COCO's keypoint annotations and unpack them there"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} is not a COCO keypoint file ({error!r}); give person_keypoints_*.json"
        ) from error
    people: dict[Any, list[tuple[Array, tuple[float, ...]]]] = {}
    for image, flat, (left, top, wide, high) in found:
        points = np.asarray(flat, np.float32)
        if points.size != 3 * len(JOINTS):
            raise BadInput(
                f"{path} has a person of {points.size // 3} joints, not {len(JOINTS)}; it is not of people"
            )
        if image not in files:
            raise BadInput(f"{path} has joints for picture {image} that it does not list; download it again")
        if (points[2::3] > 0).any():
            people.setdefault(image, []).append((points.reshape(-1, 3), (left, top, left + wide, top + high)))
    if not people:
        raise BadInput(f"{path} has no person with joints")
    pictures, keypoints, boxes = [], [], []
    for image in sorted(people):
        pictures.append(read_picture(Path(images) / files[image]))
        rows = sorted(people[image], key=lambda one: -int((one[0][:, 2] > 0).sum()))[:most]
        keypoints.append(np.zeros((most, len(JOINTS), 3), np.float32))
        boxes.append(np.zeros((most, 4), np.float32))
        for index, (points, bounds) in enumerate(rows):
            keypoints[-1][index], boxes[-1][index] = points, bounds
    arrays: dict[str, Array] = {
        "images": stacked(pictures, Path(images)),
        "keypoints": np.stack(keypoints),
        "boxes": np.stack(boxes),
    }
    return DataSet(path.stem, "public", arrays, JOINTS)


def _draw_one(random: Random, split: str, size: int) -> dict[str, Any]:
    picture = background(random, size, size, _FIELDS[split], _PIECES[split])
    people = int(random.choice([1, 1, 2, 2, 3]))
    near = np.full((size, size), -np.inf)
    mask = np.zeros((size, size), np.uint8)
    keypoints = np.zeros((MOST, len(JOINTS), 3), np.float32)
    stances = np.full(MOST, -1, np.int64)
    places = np.sort(random.uniform(0.42, 0.68, people)) * size  # of the hips; lower is nearer
    across = random.permutation(np.linspace(0.25, 0.75, people) if people > 1 else np.array([0.5]))
    across = across + random.uniform(-0.12, 0.12, people)
    for person, y in enumerate(places):
        kind = int(random.integers(len(STANCES[split])))
        stance, looks = _stance(random, STANCES[split][kind]), random_looks(random)
        tall = size * random.uniform(0.6, 0.85) * (0.6 + 0.4 * y / size)
        pose = Pose(size * across[person], y, tall)
        for limb in clothed(stance, looks):
            cover = coverage([pose.apply(outline) for outline in limb.outlines], size, size)
            over(picture, cover, np.clip(limb.colour * random.uniform(0.88, 1.1), 0, 1))
            mine = cover > 0.5
            mask[mine], near[mine] = person + 1, limb.near
        body = joints(stance, looks.build)
        keypoints[person, :, :2], keypoints[person, :, 2] = pose.apply(body[:, :2]), body[:, 2]
        stances[person] = kind
    boxes = np.zeros((MOST, 4), np.float32)
    for person in range(people):
        keypoints[person, :, 2] = [_shown(point, person, mask, near) for point in keypoints[person]]
        rows, columns = np.nonzero(mask == person + 1)
        if len(rows):
            boxes[person] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    picture = jitter(random, picture * light(random, size, size, random.uniform(0, 0.6)), 0.4)
    picture = blur(picture, random.uniform(0, 0.8))
    return {"images": expose(random, picture, random.uniform(0.005, 0.04)), "keypoints": keypoints, "boxes": boxes,
            "masks": mask, "stances": stances}  # fmt: skip


def _shown(point: Array, person: int, mask: Array, near: Array) -> int:
    """COCO's v of a joint (x, y, nearness)."""
    x, y = int(np.floor(point[0])), int(np.floor(point[1]))
    if not (0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]):
        return 0
    return 2 if mask[y, x] == person + 1 and near[y, x] <= point[2] + _REACH else 1


def _stance(random: Random, kind: str) -> Stance:
    def two(low: float, high: float) -> tuple[float, float]:
        return float(random.uniform(low, high)), float(random.uniform(low, high))

    yaw, lean = random.uniform(-np.pi, np.pi), random.normal(0, 0.06)
    if kind == "standing":
        return Stance(yaw, lean, (0, 0), (0, 0), two(0.02, 0.15), two(-0.2, 0.4), two(0, 1.2), two(0.1, 0.4))
    if kind == "waving":
        return Stance(yaw, lean, (0, 0), (0, 0), two(0.02, 0.2), (random.uniform(-0.1, 0.2), random.uniform(2.4, 3.0)),
                      two(-0.4, 0.4), (0.2, random.uniform(0.1, 0.6)))  # fmt: skip
    if kind == "walking":
        step = random.uniform(0.25, 0.6) * random.choice([-1, 1])
        return Stance(
            yaw, lean, (step, -step), two(0.05, 0.4), (0.03, 0.03), (-step, step), two(0.1, 0.6), (0.1, 0.1)
        )
    if kind == "running":
        step = random.uniform(0.7, 1.1) * random.choice([-1, 1])
        return Stance(
            yaw, lean, (step, -step), two(0.7, 1.4), (0.03, 0.03), (-step, step), two(1.3, 1.8), (0.15, 0.15)
        )
    if kind == "star":
        return Stance(yaw * 0.3, lean, (0, 0), (0, 0), two(0.35, 0.6), (0, 0), (0, 0), two(1.1, 2.2))
    bend = random.uniform(1.2, 1.6)
    return Stance(
        yaw, lean, (bend, bend), (bend, bend), two(0.05, 0.25), two(0.2, 0.8), two(0.3, 1.0), two(0.05, 0.3)
    )
