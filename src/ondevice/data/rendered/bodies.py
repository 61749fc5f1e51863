"""Articulated people: a skeleton in three dimensions, seen from some side, and clothed.

Knows joints, limbs and clothes in units of a person's height; x to the right of the picture, y down, near towards
the camera; the origin between the hips. Knows nothing of pictures, sets or splits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ondevice.data.rendered.canvas import Floats, Random, box, ellipse, hsv, stroke

JOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
BONES = ((5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16), (5, 11), (6, 12),
         (0, 1), (0, 2), (1, 3), (2, 4))  # fmt: skip
HEAD_Y = -0.41
_LEFT, _RIGHT = 1, -1


@dataclass(frozen=True)
class Stance:
    """Angles in radians. yaw: 0 faces the camera, pi/2 looks to the right of the picture. lean: of the trunk, to the
    side. Limbs, (left, right): swing forward of thighs and upper arms, spread of both sideways, bend of knees and
    elbows."""

    yaw: float = 0.0
    lean: float = 0.0
    thigh: tuple[float, float] = (0.0, 0.0)
    knee: tuple[float, float] = (0.0, 0.0)
    stride: tuple[float, float] = (0.05, 0.05)
    arm: tuple[float, float] = (0.0, 0.0)
    elbow: tuple[float, float] = (0.2, 0.2)
    spread: tuple[float, float] = (0.15, 0.15)


@dataclass(frozen=True)
class Looks:
    """What someone wears and is built like. build: 0.8 slim to 1.25 stout. legs: "trousers", "shorts" or "skirt".
    bag: "none", "backpack" or "handbag". hair: "short", "long" or "hat". Colours are red, green, blue."""

    skin: Floats
    hair_colour: Floats
    top: Floats
    bottom: Floats
    shoes: Floats
    bag_colour: Floats
    build: float = 1.0
    legs: str = "trousers"
    sleeves: bool = True
    bag: str = "none"
    hair: str = "short"
    stripe: bool = False


@dataclass(frozen=True)
class Limb:
    """Outlines of one paint and how near they are."""

    outlines: list[Floats]
    colour: Floats
    near: float


def random_looks(random: Random) -> Looks:
    """Anyone."""

    def any_colour() -> Floats:
        return hsv(random.random(), random.uniform(0.0, 1.0), random.uniform(0.1, 0.95))

    return Looks(
        skin=hsv(random.uniform(0.03, 0.09), random.uniform(0.25, 0.65), random.uniform(0.3, 0.95)),
        hair_colour=hsv(random.uniform(0.02, 0.13), random.uniform(0.2, 0.8), random.uniform(0.05, 0.8)),
        top=any_colour(), bottom=any_colour(), shoes=any_colour() * 0.5, bag_colour=any_colour(),
        build=random.uniform(0.8, 1.25), legs=str(random.choice(["trousers", "trousers", "shorts", "skirt"])),
        sleeves=bool(random.random() < 0.6), bag=str(random.choice(["none", "none", "backpack", "handbag"])),
        hair=str(random.choice(["short", "long", "hat"])), stripe=bool(random.random() < 0.3),
    )  # fmt: skip


def joints(stance: Stance, build: float = 1.0) -> Floats:
    """(17, 3): x, y and nearness of the joints, in the order of COCO."""
    found = {}
    for side, name in ((_LEFT, "left"), (_RIGHT, "right")):
        index = 0 if side == _LEFT else 1
        hip = np.array([side * 0.075 * build, 0.0, 0.0])
        thigh, knee = stance.thigh[index], stance.knee[index]
        found[f"{name}_hip"] = hip
        found[f"{name}_knee"] = hip + 0.245 * _limb(thigh, side * stance.stride[index])
        found[f"{name}_ankle"] = found[f"{name}_knee"] + 0.235 * _limb(
            thigh - knee, side * stance.stride[index] * 0.5
        )
        shoulder = np.array([side * 0.115 * build, -0.29, 0.0])
        arm, spread = stance.arm[index], stance.spread[index]
        found[f"{name}_shoulder"] = shoulder
        found[f"{name}_elbow"] = shoulder + 0.165 * _limb(arm, side * spread)
        found[f"{name}_wrist"] = found[f"{name}_elbow"] + 0.15 * _limb(
            arm + stance.elbow[index], side * spread * 0.7
        )
        found[f"{name}_eye"] = np.array([side * 0.026, HEAD_Y - 0.012, 0.058])
        found[f"{name}_ear"] = np.array([side * 0.066, HEAD_Y + 0.004, 0.0])
    found["nose"] = np.array([0.0, HEAD_Y + 0.012, 0.075])
    body = np.stack([found[name] for name in JOINTS])
    hips = JOINTS.index("left_hip")
    body[:hips] = _leaned(body[:hips], stance.lean)  # head and arms go with the trunk
    return _seen(body, stance.yaw)


def clothed(stance: Stance, looks: Looks) -> list[Limb]:
    """What there is to draw, far limbs first."""
    at = dict(zip(JOINTS, joints(stance, looks.build)))
    girth = looks.build
    limbs = []
    for name in ("left", "right"):
        hip, knee, ankle = (at[f"{name}_{joint}"] for joint in ("hip", "knee", "ankle"))
        shoulder, elbow, wrist = (at[f"{name}_{joint}"] for joint in ("shoulder", "elbow", "wrist"))
        toe = ankle + np.array([0.06 * np.sin(stance.yaw), 0.022, 0.0])
        upper_leg = looks.bottom if looks.legs != "skirt" else looks.skin
        lower_leg = looks.bottom if looks.legs == "trousers" else looks.skin
        limbs += [
            _piece([ankle, toe], 0.05, 0.045, looks.shoes), _piece([knee, ankle], 0.075 * girth, 0.05, lower_leg),
            _piece([hip, knee], 0.115 * girth, 0.08 * girth, upper_leg),
            _piece([elbow, wrist], 0.055 * girth, 0.04, looks.top if looks.sleeves else looks.skin, 0.01),
            _piece([shoulder, elbow], 0.075 * girth, 0.06 * girth, looks.top, 0.01),
        ]  # fmt: skip
        hand = Limb([ellipse(wrist[0], wrist[1] + 0.015, 0.026)], looks.skin, wrist[2] + 0.02)
        limbs.append(hand)
        if looks.bag == "handbag" and name == "left":
            wx, low = wrist[0], wrist[1] + 0.03
            bag = [box(wx - 0.07, low + 0.03, wx + 0.07, low + 0.14, 0.02),
                   *stroke([(wx - 0.04, low + 0.04), (wx, low), (wx + 0.04, low + 0.04)], 0.014)]  # fmt: skip
            limbs.append(Limb(bag, looks.bag_colour, wrist[2] + 0.03))
    limbs += _trunk(at, stance, looks)
    return sorted(limbs, key=lambda limb: limb.near)


def _trunk(at: dict[str, Floats], stance: Stance, looks: Looks) -> list[Limb]:
    girth, thick = looks.build, 0.07 * looks.build  # half a chest's depth, seen from the side
    shoulders = (at["left_shoulder"] + at["right_shoulder"]) / 2
    wide = abs(np.cos(stance.yaw))
    chest, waist = (
        (0.125 * wide + thick * (1 - wide)) * girth,
        (0.1 * wide + thick * 0.95 * (1 - wide)) * girth,
    )
    x, y = shoulders[0], shoulders[1]
    trunk = np.array([(x - chest, y - 0.01), (x - 0.04, y - 0.04), (x + 0.04, y - 0.04), (x + chest, y - 0.01),
                      (waist, 0.03), (-waist, 0.03)])  # fmt: skip
    parts = [Limb([trunk], looks.top, 0.0)]
    if looks.stripe:
        parts.append(Limb([box(x * 0.5 - waist, y * 0.55, x * 0.5 + waist, y * 0.35)], looks.bottom, 0.001))
    if looks.legs == "skirt":
        parts.append(Limb([np.array([(-waist, -0.02), (waist, -0.02), (waist * 1.6, 0.24), (-waist * 1.6, 0.24)])],
                          looks.bottom, 0.09))  # fmt: skip
    else:
        parts.append(Limb([box(-waist, -0.02, waist, 0.06, 0.02)], looks.bottom, 0.002))
    if looks.bag == "backpack":
        behind = -np.sin(stance.yaw) * 0.1
        side = 0.11 * wide + 0.06 * (1 - wide)
        pack = box(x + behind - side, y + 0.02, x + behind + side, y + 0.24, 0.04)
        parts.append(Limb([pack], looks.bag_colour, -0.12 * np.cos(stance.yaw)))
        if np.cos(stance.yaw) > 0.3:
            straps = [
                p
                for s in (-1, 1)
                for p in stroke([(x + s * 0.06, y - 0.02), (x + s * 0.07, y + 0.16)], 0.025)
            ]
            parts.append(Limb(straps, looks.bag_colour, 0.003))
    head = (at["left_ear"] + at["right_ear"]) / 2
    hx, hy = head[0], head[1]
    parts.append(Limb(stroke([(x, y - 0.02), (hx, hy + 0.04)], 0.06), looks.skin, 0.0015))
    facing = np.cos(stance.yaw)
    back = -0.03 * np.sin(stance.yaw)
    parts.append(Limb([ellipse(hx, hy, 0.06, 0.078)], looks.skin, 0.004))
    if looks.hair == "long":
        falls = ellipse(hx + back, hy + 0.035, 0.082, 0.115)
        parts.append(Limb([falls], looks.hair_colour, -0.001 if facing > -0.2 else 0.1))
    cap = ellipse(
        hx + back, hy - 0.035 if facing > -0.3 else hy - 0.01, 0.066, 0.052 if facing > -0.3 else 0.075
    )
    parts.append(Limb([cap], looks.bag_colour if looks.hair == "hat" else looks.hair_colour, 0.02))
    if looks.hair == "hat":
        parts.append(
            Limb([ellipse(hx + 0.04 * np.sin(stance.yaw), hy - 0.03, 0.09, 0.016)], looks.bag_colour, 0.021)
        )
    seen = [at[name] for name in ("left_eye", "right_eye") if at[name][2] > 0.01]
    parts += [Limb([ellipse(eye[0], eye[1], 0.009)], np.array([0.05, 0.05, 0.06]), 0.09) for eye in seen]
    return parts


def _piece(points: list[Floats], width: float, end: float, colour: Floats, nearer: float = 0.0) -> Limb:
    line = np.stack(points)
    return Limb(stroke(line[:, :2], width, end), colour, float(line[:, 2].mean()) + nearer)


def _limb(swing: float, aside: float) -> Floats:
    """A unit vector (aside, down, forward) that hangs down at 0."""
    return np.array([np.sin(aside), np.cos(swing) * np.cos(aside), np.sin(swing) * np.cos(aside)])


def _leaned(points: Floats, angle: float) -> Floats:
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y, z = points.T
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], 1)


def _seen(points: Floats, yaw: float) -> Floats:
    """The person's (left, down, forward) as x, y and nearness in the picture."""
    left, down, forward = points.T
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.stack([left * cosine + forward * sine, down, forward * cosine - left * sine], 1)
