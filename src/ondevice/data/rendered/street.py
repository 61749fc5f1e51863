"""A street in perspective: what stands in it is laid into a picture, a class map, a depth map and an instance map.

Knows projection, layers and the things of a street. Knows nothing of sets or splits: kinds of things are handed in.
Metres: X to the right of the camera, height above the ground, depth along the street; the camera is 1.5 m high.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import (
    Floats,
    Pose,
    Random,
    box,
    coverage,
    ellipse,
    hsv,
    over,
    pick,
    stroke,
)
from ondevice.data.rendered.textures import coloured, noise, texture

CLASSES = ("sky", "road", "pavement", "building", "vegetation", "car", "person", "sign")
SKY, ROAD, PAVEMENT, BUILDING, VEGETATION, CAR, PERSON, SIGN = range(len(CLASSES))
FAR = 200.0  # metres: the depth of the sky
_EYE = 1.5
Point = tuple[float, float, float]


class Street:
    """A picture in the making. picture float (height, width, 3); classes, instances uint8 and depth float32
    (height, width)."""

    def __init__(self, random: Random, height: int, width: int) -> None:
        self.random, self.height, self.width = random, height, width
        self.horizon = height * random.uniform(0.36, 0.5)
        self.vanishing = width * random.uniform(0.38, 0.62)
        self.focal = height * random.uniform(0.95, 1.2)
        self.picture = np.zeros((height, width, 3))
        self.classes = np.zeros((height, width), np.uint8)
        self.instances = np.zeros((height, width), np.uint8)
        self.depth = np.full((height, width), FAR, np.float32)

    def see(self, points: Iterable[Point]) -> Floats:
        """(X, height, depth) in metres -> (n, 2) pixels."""
        return np.array(
            [
                (self.vanishing + self.focal * x / z, self.horizon + self.focal * (_EYE - up) / z)
                for x, up, z in points
            ]
        )

    def lay(
        self, kind: int, outlines: Iterable[npt.ArrayLike], paint: npt.ArrayLike, depth: npt.ArrayLike,
        instance: int = 0,
    ) -> None:  # fmt: skip
        """Paint outlines (pixels), a colour or a picture, at a depth (a number or a map)."""
        cover = coverage(outlines, self.height, self.width)
        over(self.picture, cover, paint)
        mine = cover > 0.5
        self.classes[mine] = kind
        self.instances[mine] = instance
        self.depth[mine] = np.broadcast_to(np.asarray(depth, np.float32), mine.shape)[mine]

    def ground(self) -> npt.NDArray[np.float32]:
        """The depth of the ground at each pixel below the horizon."""
        rows = np.arange(self.height)[:, None] + 0.5 - self.horizon
        return np.broadcast_to(self.focal * _EYE / np.maximum(rows, 0.5), (self.height, self.width)).astype(
            np.float32
        )

    def cloth(self, pattern: str, cell: float, one: Floats, other: Floats) -> Floats:
        """A patterned picture to paint with."""
        return coloured(texture(self.random, pattern, self.height, self.width, max(cell, 2.0)), one, other)


def sky(street: Street, kind: str) -> None:
    """kind: "clear", "cloudy", "overcast" or "sunset"."""
    random, (height, width) = street.random, (street.height, street.width)
    down = np.linspace(0, 1, height)[:, None, None]
    clouds = noise(random, height, width, width / 3)[..., None]
    if kind == "sunset":
        street.picture[:] = hsv(0.07, 0.75, 0.95) * down + hsv(0.72, 0.4, 0.6) * (1 - down) + 0.12 * clouds
    elif kind == "overcast":
        street.picture[:] = random.uniform(0.55, 0.75) + 0.2 * clouds
    else:
        blue = hsv(random.uniform(0.54, 0.62), random.uniform(0.4, 0.75), random.uniform(0.75, 0.95))
        street.picture[:] = blue + (0.9 - blue) * (
            0.5 * down + (kind == "cloudy") * np.clip(2 * clouds - 0.8, 0, 1)
        )


def floor(street: Street, patterns: Sequence[str]) -> float:
    """Road, pavements and verges; half the width of the road, metres."""
    random, ground = street.random, street.ground()
    near, far = 0.8, 150.0
    half, kerb = random.uniform(3.0, 5.0), random.uniform(1.8, 3.2)

    def strip(left: float, right: float) -> list[Floats]:
        return [street.see([(left, 0, near), (right, 0, near), (right, 0, far), (left, 0, far)])]

    grass = hsv(random.uniform(0.2, 0.33), random.uniform(0.3, 0.6), random.uniform(0.25, 0.55))
    street.lay(VEGETATION, strip(-300, 300), street.cloth("speckle", 6, grass, grass * 0.6), ground)
    stone = hsv(random.uniform(0, 0.15), random.uniform(0, 0.2), random.uniform(0.5, 0.75))
    paving = street.cloth(pick(random, patterns), 5, stone, stone * 0.8)
    street.lay(PAVEMENT, strip(-half - kerb, half + kerb), paving, ground)
    tar = np.full(3, random.uniform(0.18, 0.42))
    street.lay(ROAD, strip(-half, half), street.cloth("speckle", 5, tar, tar * 0.75), ground)
    for z in np.arange(2.0, 40.0, 4.0) + random.uniform(0, 4):
        dash = street.see([(-0.1, 0, z), (0.1, 0, z), (0.1, 0, z + 1.8), (-0.1, 0, z + 1.8)])
        street.lay(ROAD, [dash], (0.85, 0.85, 0.8), ground)
    return half + kerb


def buildings(street: Street, edge: float, patterns: Sequence[str], gabled: bool) -> None:
    """A row of houses on either side, gaps between them, far ones first. gabled: with roofs."""
    random = street.random
    for side in (-1, 1):
        walls, z = [], random.uniform(2.0, 8.0)
        while z < 70:
            length = random.uniform(5, 14)
            if random.random() < 0.75:
                walls.append((z, z + length))
            z += length + random.choice([0.0, 2.0, 6.0])
        x = side * (edge + random.uniform(0.0, 3.0))
        for start, end in reversed(walls):
            tall = random.uniform(4, 14)
            wall = hsv(random.random(), random.uniform(0, 0.5), random.uniform(0.35, 0.9))
            ends = street.see([(x, 0, start), (x, 0, end), (x, tall, end), (x, tall, start)])
            front = street.see(
                [(x, 0, start), (x + side * 9, 0, start), (x + side * 9, tall, start), (x, tall, start)]
            )
            cell = 1.2 * street.focal / (start + 3)
            cloth = street.cloth(pick(random, patterns), cell, wall, wall * random.uniform(0.6, 0.85))
            street.lay(BUILDING, [front], cloth * 0.75, start)
            if gabled:
                roof = hsv(random.uniform(0, 0.1), random.uniform(0.2, 0.7), random.uniform(0.25, 0.6))
                peak = [(x + side * 4.5, tall + 3, start), (x + side * 4.5, tall + 3, end)]
                slope = street.see([(x, tall, start), peak[0], peak[1], (x, tall, end)])
                gable = street.see([(x, tall, start), peak[0], (x + side * 9, tall, start)])
                street.lay(BUILDING, [gable], wall * 0.75, start)
                street.lay(BUILDING, [slope], roof, (start + end) / 2)
            street.lay(BUILDING, [ends], cloth, (start + end) / 2)
            panes = []
            for row in range(int(tall // 3)):
                for column in np.arange(start + 0.8, end - 1.2, 2.4):
                    low = 1.0 + 3 * row
                    panes.append(street.see([(x, low, column), (x, low, column + 1.1), (x, low + 1.5, column + 1.1),
                                             (x, low + 1.5, column)]))  # fmt: skip
            glass = hsv(random.uniform(0.5, 0.65), 0.3, random.uniform(0.15, 0.7))
            street.lay(BUILDING, panes, glass, (start + end) / 2)


def tree(street: Street, x: float, z: float, kind: str) -> None:
    """kind: "round", "cluster", "conifer" or "poplar"."""
    random = street.random
    tall, metre = random.uniform(3.5, 7.5), street.focal / z
    (foot_x, foot_y), (_, top_y) = street.see([(x, 0, z), (x, tall, z)])
    street.lay(VEGETATION, [box(foot_x - 0.15 * metre, top_y + (foot_y - top_y) * 0.5, foot_x + 0.15 * metre, foot_y)],
               hsv(0.07, 0.5, random.uniform(0.2, 0.4)), z)  # fmt: skip
    green = hsv(random.uniform(0.17, 0.38), random.uniform(0.4, 0.8), random.uniform(0.25, 0.6))
    leaves = street.cloth("speckle", 0.8 * metre, green, green * 0.5)
    up = foot_y - top_y
    if kind == "conifer":
        tiers = ((0, 0.4, 0.16), (0.2, 0.65, 0.23), (0.4, 0.9, 0.29))  # top, bottom, half a width of each
        crown = [
            np.array(
                [
                    (foot_x, top_y + high * up),
                    (foot_x + wide * up, top_y + low * up),
                    (foot_x - wide * up, top_y + low * up),
                ]
            )
            for high, low, wide in tiers
        ]
    elif kind == "poplar":
        crown = [ellipse(foot_x, top_y + 0.45 * up, 0.14 * up, 0.45 * up)]
    elif kind == "round":
        crown = [ellipse(foot_x, top_y + 0.35 * up, 0.33 * up, 0.35 * up)]
    else:
        crown = [
            ellipse(foot_x + up * a, top_y + up * b, up * 0.22)
            for a, b in ((-0.2, 0.4), (0.2, 0.42), (0, 0.22))
        ]
    street.lay(VEGETATION, crown, leaves, z)


def car(street: Street, x: float, z: float, kind: str, instance: int) -> None:
    """A car from behind or in front. kind: "saloon", "van", "pickup" or "mini"."""
    random = street.random
    wide, tall, waist, narrow = {"saloon": (1.8, 1.45, 0.8, 0.7), "van": (2.0, 2.2, 1.1, 0.95),
                                 "pickup": (2.0, 1.8, 1.1, 0.85), "mini": (1.5, 1.4, 0.75, 0.75)}[kind]  # fmt: skip
    at = street.see([(x, 0, z)])[0]
    pose = Pose(at[0], at[1], street.focal / z)
    paint = hsv(random.random(), random.uniform(0.1, 1.0), random.uniform(0.2, 1.0))

    def put(colour: npt.ArrayLike, *outlines: npt.ArrayLike) -> None:
        street.lay(CAR, [pose.apply(outline) for outline in outlines], colour, z, instance)

    half, roof = wide / 2, wide * narrow / 2
    dark = np.array([0.07, 0.07, 0.08])
    put(dark, *(box(s * half * 0.75 - 0.15, -0.5, s * half * 0.75 + 0.15, 0.0, 0.05) for s in (-1, 1)))
    put(
        paint,
        box(-half, -waist, half, -0.25, 0.12),
        [(-half, -waist), (-roof, -tall), (roof, -tall), (half, -waist)],
    )
    low, high = -waist - 0.05, -tall + 0.12
    put(hsv(0.58, 0.3, random.uniform(0.15, 0.6)),
        [(-half * 0.85, low), (-roof * 0.88, high), (roof * 0.88, high), (half * 0.85, low)])  # fmt: skip
    lamp = (0.85, 0.1, 0.08) if random.random() < 0.6 else (0.98, 0.95, 0.75)
    put(
        lamp,
        *(box(s * half * 0.8 - 0.14, -waist + 0.05, s * half * 0.8 + 0.14, -waist + 0.25) for s in (-1, 1)),
    )
    put(dark, box(-half * 0.95, -0.45, half * 0.95, -0.3))


def person(street: Street, x: float, z: float, long_coat: bool, instance: int) -> None:
    """Someone walking, seen from any side. long_coat: a coat or dress in place of a jacket and trousers."""
    random = street.random
    tall = random.uniform(1.5, 1.9)
    at = street.see([(x, 0, z)])[0]
    pose = Pose(at[0], at[1], street.focal / z * tall, flip=bool(random.random() < 0.5))
    step = random.uniform(0.02, 0.14)
    coat, trousers = (
        hsv(random.random(), random.uniform(0.1, 0.9), random.uniform(0.1, 0.9)) for _ in range(2)
    )
    skin = hsv(random.uniform(0.03, 0.09), random.uniform(0.3, 0.65), random.uniform(0.35, 0.95))

    def put(colour: npt.ArrayLike, outlines: Sequence[npt.ArrayLike]) -> None:
        street.lay(PERSON, [pose.apply(outline) for outline in outlines], colour, z, instance)

    put(trousers, [p for s in (-1, 1) for p in stroke([(0.03 * s, -0.5), (s * step, 0)], 0.1, 0.07)])
    put(coat, stroke([(0, -0.8), (-step, -0.55), (-step * 0.6, -0.42)], 0.07))
    put(
        coat,
        [[(-0.1, -0.83), (0.1, -0.83), (0.16, -0.3), (-0.16, -0.3)]]
        if long_coat
        else [box(-0.1, -0.84, 0.1, -0.46, 0.05)],
    )
    put(coat * 0.85, stroke([(0, -0.8), (step, -0.55), (step * 1.5, -0.42)], 0.07))
    put(skin, [ellipse(0, -0.92, 0.065, 0.08)])
    put(hsv(random.uniform(0.02, 0.12), 0.5, random.uniform(0.05, 0.6)), [ellipse(-0.01, -0.96, 0.07, 0.05)])


def sign(street: Street, x: float, z: float, kind: str) -> None:
    """A pole with a board: "disc", "wedge", "diamond" or "board"."""
    random = street.random
    at = street.see([(x, 0, z)])[0]
    pose = Pose(at[0], at[1], street.focal / z)
    street.lay(SIGN, [pose.apply(box(-0.06, -2.4, 0.06, 0))], np.full(3, random.uniform(0.35, 0.65)), z)
    board = {
        "disc": ellipse(0, -2.5, 0.45),
        "wedge": np.array([(0, -3.0), (0.5, -2.1), (-0.5, -2.1)]),
        "diamond": np.array([(0, -3.1), (0.5, -2.55), (0, -2.0), (-0.5, -2.55)]),
        "board": box(-0.7, -2.9, 0.7, -2.1),
    }[kind]
    rim = hsv(random.choice([0.0, 0.14, 0.6]), 0.9, 0.85)
    street.lay(SIGN, [pose.apply(board)], rim, z)
    middle = board.mean(0)
    street.lay(SIGN, [pose.apply(middle + (board - middle) * 0.65)], (0.95, 0.95, 0.92), z)
