"""How a face is drawn: twenty numbers say whose it is, chance says how it is seen.

Knows the geometry and paint of a face. Knows nothing of sets, splits or pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import (
    Floats,
    Random,
    arc,
    blur,
    box,
    coverage,
    ellipse,
    expose,
    hsv,
    jitter,
    light,
    over,
    stroke,
)  # fmt: skip
from ondevice.data.rendered.textures import coloured, texture

IDENTITY = (
    "head width", "head height", "eye distance", "eye size", "eye height", "eye slant", "iris hue", "brow thickness",
    "brow angle", "nose length", "nose width", "mouth width", "lip thickness", "mouth height", "jaw", "ear size",
    "skin tone", "hair hue", "hair darkness", "hair style",
)  # fmt: skip
_FIELDS = ("plain", "clouds", "stripes", "grain", "blobs", "bricks")


def portrait(random: Random, factors: npt.ArrayLike, size: int) -> dict[str, Any]:
    """A picture of the identity with these 20 factors, 0 to 1: {"images", "landmarks", "glasses"}."""
    f = dict(zip(IDENTITY, np.asarray(factors, np.float64).tolist()))
    yaw, pitch, roll = random.uniform(-0.55, 0.55), random.uniform(-0.22, 0.22), random.normal(0, 0.13)
    smile, gape, blink, raised = random.uniform([-0.6, 0.0, 0.35, -0.4], [1.0, 1.0, 1.0, 1.0])
    scale = size * random.uniform(0.34, 0.41)
    x0, y0 = size * (0.5 + random.uniform(-0.05, 0.05, 2))
    wide, high = 0.68 + 0.2 * f["head width"], 0.9 + 0.2 * f["head height"]
    cosine, sine = np.cos(roll), np.sin(roll)

    def put(points: npt.ArrayLike, bulge: float = 1.0) -> Floats:
        """Face coordinates (-1..1) to pixels: what lies in front (bulge) moves with yaw and pitch."""
        p = np.asarray(points, np.float64)
        depth = (
            np.sqrt(np.clip(1 - 0.7 * (p[:, 0] / wide) ** 2 - 0.3 * (p[:, 1] / high) ** 2, 0.05, 1)) * bulge
        )
        x = p[:, 0] * np.cos(yaw) + 0.55 * depth * np.sin(yaw)
        y = p[:, 1] * np.cos(pitch) + 0.45 * depth * np.sin(pitch)
        return np.stack([x0 + scale * (cosine * x - sine * y), y0 + scale * (sine * x + cosine * y)], 1)

    ground = hsv(random.random(), random.uniform(0, 0.6), random.uniform(0.2, 0.9))
    pattern = texture(random, str(random.choice(_FIELDS)), size, size, size / 5)
    picture = coloured(pattern, ground, ground * random.uniform(0.5, 0.9))
    skin = hsv(0.045 + 0.035 * f["skin tone"], 0.6 - 0.32 * f["skin tone"], 0.42 + 0.53 * f["skin tone"])
    hair = hsv(0.02 + 0.1 * f["hair hue"], 0.75 - 0.4 * f["hair hue"], 0.08 + 0.62 * f["hair darkness"])
    style = int(min(f["hair style"] * 5, 4))  # bald, short, parted, long, curly
    shirt = hsv(random.random(), random.uniform(0.1, 0.9), random.uniform(0.2, 0.9))

    def paint(colour: npt.ArrayLike, *outlines: npt.ArrayLike) -> None:
        over(picture, coverage(outlines, size, size), np.clip(np.asarray(colour), 0, 1))

    jaw = 0.45 + 0.45 * f["jaw"]
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    low = np.clip(np.sin(turn), 0, 1)
    head = np.stack([wide * np.cos(turn) * (1 - (1 - jaw) * 0.75 * low**2), high * np.sin(turn)], 1)
    if style == 3:
        paint(hair * 0.8, put([*arc(0, -0.1, wide + 0.18, high + 0.05, np.pi, 2 * np.pi), (wide + 0.2, 1.15),
                               (-wide - 0.2, 1.15)], 0.0))  # fmt: skip
    paint(shirt, put(ellipse(0, 2.0, 1.5, 0.8), 0.0))
    paint(skin * 0.8, put(box(-0.32, 0.6, 0.32, 1.45), 0.1))
    ear = 0.1 + 0.17 * f["ear size"]
    paint(
        skin * 0.88,
        *(put(ellipse(side * (wide + 0.02), 0.02, 0.07 + 0.4 * ear, ear), 0.15) for side in (-1, 1)),
    )
    paint(skin, put(head, 0.25))
    paint(
        np.clip(skin * [1.06, 0.93, 0.92], 0, 1),
        *(put(ellipse(side * 0.4 * wide, 0.32, 0.16, 0.12)) for side in (-1, 1)),
    )

    eye_y = -0.16 + 0.16 * (f["eye height"] - 0.5)
    apart = 0.27 + 0.13 * f["eye distance"]
    eye, slant = 0.1 + 0.055 * f["eye size"], 0.5 * (f["eye slant"] - 0.5)
    iris = hsv(0.06 + 0.55 * f["iris hue"], 0.6, 0.35 + 0.2 * f["iris hue"])
    gaze = random.uniform(-0.03, 0.03)
    for side in (-1, 1):
        paint((0.96, 0.95, 0.93), put(ellipse(side * apart, eye_y, eye, eye * 0.62 * blink, -side * slant)))
        paint(iris, put(ellipse(side * apart + gaze, eye_y, eye * 0.48, eye * 0.5 * min(1, blink + 0.15))))
        paint(
            (0.03, 0.03, 0.04),
            put(ellipse(side * apart + gaze, eye_y, eye * 0.22, eye * 0.25 * min(1, blink + 0.2))),
        )
        lid = arc(
            side * apart, eye_y, eye * 1.05, eye * 0.68 * blink, np.pi, 2 * np.pi, -side * slant, count=8
        )
        paint(skin * 0.45, *stroke(put(lid), 0.045 * scale))
        brow_y = eye_y - 0.2 - 0.05 * raised
        tilt = 0.16 * (f["brow angle"] - 0.4)
        brow = [(apart - 0.16, brow_y + tilt), (apart, brow_y - 0.035), (apart + 0.18, brow_y - tilt * 0.4)]
        brow = [(side * x, y) for x, y in brow]
        paint(
            hair * 0.7 if style else skin * 0.4,
            *stroke(put(brow), (0.04 + 0.07 * f["brow thickness"]) * scale),
        )

    tip = eye_y + 0.3 + 0.17 * f["nose length"]
    half = 0.07 + 0.15 * f["nose width"]
    paint(skin * 0.84, put([(0.05, eye_y + 0.08), (half, tip), (0, tip + 0.05), (-half * 0.3, tip)], 1.25))
    paint(skin * 1.04, put(ellipse(0, tip - 0.03, half * 0.55, 0.07), 1.3))
    paint(skin * 0.5, *(put(ellipse(side * half * 0.6, tip + 0.03, 0.035, 0.025), 1.25) for side in (-1, 1)))

    mouth_y, mouth = 0.52 + 0.12 * (f["mouth height"] - 0.5), 0.2 + 0.14 * f["mouth width"]
    lip = 0.05 + 0.06 * f["lip thickness"]
    across = np.linspace(-1, 1, 11)
    curve = -0.1 * smile * across**2 + 0.05 * smile
    opened = 0.14 * gape * max(0.0, smile + 0.3) * (1 - across**2)
    middle = np.stack([mouth * across, mouth_y + curve], 1)
    bow = (1 - across**2) ** 0.6
    upper, lower = (
        middle - np.stack([0 * across, lip * bow], 1),
        middle + np.stack([0 * across, opened + lip * 1.2 * bow], 1),
    )
    red = skin * [0.88, 0.5, 0.5]
    paint(red, put(np.concatenate([upper, lower[::-1]])))
    if opened.max() > 0.03:
        inner = middle + np.stack([0 * across, opened], 1)
        paint((0.25, 0.05, 0.06), put(np.concatenate([middle, inner[::-1]])))
        teeth = middle + np.stack([0 * across, opened * 0.45], 1)
        paint((0.95, 0.94, 0.9), put(np.concatenate([middle, teeth[::-1]])))
    else:
        paint(red * 0.5, *stroke(put(middle), 0.03 * scale))

    if style in (1, 3):
        cap = [
            *arc(0, -0.06, wide + 0.07, high + 0.03, np.pi, 2 * np.pi),
            *arc(0, -0.32, wide * 0.98, 0.36, 0, -np.pi),
        ]
        paint(hair, put(cap, 0.3))
    elif style == 2:
        parting = [(wide * 0.95, -0.3), (0.3, -0.62), (-0.3, -0.72), (-wide * 0.7, -0.4)]
        cap = [*arc(0, -0.06, wide + 0.07, high + 0.06, np.pi, 2 * np.pi), *parting]
        paint(hair, put(cap, 0.3))
    elif style == 4:
        curls = [ellipse((wide - 0.02) * np.cos(t), -0.2 + (high - 0.2) * np.sin(t), 0.22)
                 for t in np.linspace(np.pi * 0.98, np.pi * 2.02, 11)]  # fmt: skip
        paint(hair, *(put(curl, 0.3) for curl in curls))

    glasses = int(random.random() < 0.25) * int(random.integers(1, 4))  # none, round, square, dark
    if glasses:
        frame = hsv(random.random(), 0.4, random.uniform(0.05, 0.5))
        lens = ellipse(0, 0, 0.2, 0.19) if glasses == 1 else box(-0.21, -0.16, 0.21, 0.16, 0.06)
        rims = [lens + np.array([side * apart, eye_y + 0.02]) for side in (-1, 1)]
        if glasses == 3:
            paint((0.08, 0.08, 0.1), *(put(rim, 1.1) for rim in rims))
        lines = [p for rim in rims for p in stroke(put([*rim, rim[0]], 1.1), 0.045 * scale)]
        bridge = stroke(put([(-apart + 0.2, eye_y), (apart - 0.2, eye_y)], 1.15), 0.045 * scale)
        paint(frame, *lines, *bridge)

    picture = picture * light(random, size, size, random.uniform(0.1, 1.0)) * random.uniform(0.75, 1.15)
    picture = jitter(random, blur(picture, random.uniform(0, 0.9) * size / 64), 0.35)
    landmarks = np.concatenate(
        [put([(-apart, eye_y), (apart, eye_y)]), put([(0, tip)], 1.3), put(middle[[0, -1]])]
    )
    return {"images": expose(random, picture, random.uniform(0.005, 0.04)), "landmarks": landmarks.astype(np.float32),
            "glasses": np.int64(glasses)}  # fmt: skip
