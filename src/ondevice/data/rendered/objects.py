"""Twenty objects as outlines: what the sprites are made of.

Knows shapes in the square -1..1 (y down) and which part wears which paint. Knows nothing of colours, pictures or
sets. Each object has three proportions, 0 to 1, and three yes-or-no features of its build: eight styles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import Floats, arc, box, ellipse, stroke


@dataclass(frozen=True)
class Style:
    """How one object is built: proportions a, b, c in 0..1 and features p, q, r."""

    a: float = 0.5
    b: float = 0.5
    c: float = 0.5
    p: bool = False
    q: bool = False
    r: bool = False


@dataclass(frozen=True)
class Part:
    """Outlines that wear one paint: "main", "second", "dark", "pale" or "glass"."""

    paint: str
    outlines: list[Floats]


def _of(paint: str, *outlines: npt.ArrayLike) -> Part:
    return Part(paint, [np.asarray(outline, np.float64) for outline in outlines])


def _car(s: Style) -> list[Part]:
    roof = -0.35 - 0.25 * s.b
    nose = 0.15 * s.c if s.p else 0.45 * s.c
    cabin = [(-0.7 + nose, -0.02), (-0.45 + nose, roof), (0.35, roof), (0.72 if s.q else 0.5, -0.02)]
    window = [(-0.52 + nose, -0.06), (-0.38 + nose, roof + 0.1), (-0.02, roof + 0.1), (-0.02, -0.06)]
    back = [(0.08, -0.06), (0.08, roof + 0.1), (0.3, roof + 0.1), (0.48, -0.06)]
    wheel = 0.19 + 0.06 * s.a
    wheels = [ellipse(x, 0.38, wheel) for x in (-0.52, 0.52)]
    hubs = [ellipse(x, 0.38, wheel * (0.3 if s.r else 0.55)) for x in (-0.52, 0.52)]
    return [
        _of("main", cabin, box(-0.95, -0.08, 0.95, 0.36, 0.14)), _of("glass", window, back),
        _of("dark", *wheels), _of("pale", *hubs, ellipse(-0.9, 0.08, 0.06)),
    ]  # fmt: skip


def _bus(s: Style) -> list[Part]:
    top = -0.5 - 0.2 * s.a
    count = 3 + int(2.9 * s.b)
    wide = 1.5 / count
    windows = [
        box(-0.85 + i * wide, top + 0.14, -0.92 + (i + 1) * wide, top + 0.46, 0.03) for i in range(count)
    ]
    wheels = [ellipse(x, 0.48, 0.17) for x in ((-0.55, 0.3, 0.65) if s.p else (-0.55, 0.55))]
    parts = [_of("main", box(-0.97, top, 0.97, 0.45, 0.2 if s.q else 0.06)), _of("glass", *windows)]
    parts.append(_of("glass", box(0.72, top + 0.14, 0.9, 0.38)))
    if s.r:
        parts.append(_of("second", box(-0.97, 0.08, 0.68, 0.2 + 0.1 * s.c)))
    return [*parts, _of("dark", *wheels), _of("pale", *(ellipse(x, 0.48, 0.07) for x in (-0.55, 0.55)))]


def _bicycle(s: Style) -> list[Part]:
    radius, bar = 0.36 + 0.08 * s.a, 0.07 + 0.03 * s.b
    tyres = []
    for x in (-0.55, 0.55):
        ring = arc(x, 0.35, radius, radius, 0, 2 * np.pi, count=22)
        tyres += stroke(ring, 0.09)
        if s.r:
            tyres += stroke([(x - radius, 0.35), (x + radius, 0.35)], 0.03) + stroke(
                [(x, 0.35 - radius), (x, 0.35 + radius)], 0.03
            )
    seat, steer, pedal = (-0.25, -0.3), (0.38, -0.35 if s.p else -0.25), (-0.05, 0.35)
    frame = [
        *stroke([(-0.55, 0.35), seat, pedal, (-0.55, 0.35)], bar),
        *stroke([seat, steer], bar) * (not s.q), *stroke([pedal, steer, (0.55, 0.35)], bar),
        *stroke([steer, (0.34, -0.6)], bar),
    ]  # fmt: skip
    handle = [(0.34, -0.6), (0.2, -0.62)] if s.p else [(0.34, -0.6), (0.55, -0.6), (0.58, -0.45)]
    return [_of("dark", *tyres), _of("main", *frame),
            _of("dark", *stroke(handle, bar), *stroke([seat, (-0.3, -0.42)], bar),
                ellipse(-0.3, -0.45, 0.18, 0.06))]  # fmt: skip


def _boat(s: Style) -> list[Part]:
    hull = [(-0.95, 0.3), (0.95, 0.3 - 0.1 * s.a), (0.6, 0.75), (-0.6, 0.75)]
    parts = [_of("main", hull)]
    if s.p:  # a steamer
        deck = box(-0.5, -0.05, 0.45, 0.3)
        funnels = [box(x, -0.6 - 0.2 * s.b, x + 0.2, -0.05) for x in ((-0.35, 0.05) if s.q else (-0.15,))]
        parts += [_of("pale", deck), _of("second", *funnels),
                  _of("dark", *(ellipse(x, 0.12, 0.07) for x in (-0.3, 0.0, 0.3)))]  # fmt: skip
    else:
        top = -0.75 - 0.2 * s.b
        parts.append(_of("dark", *stroke([(0, 0.3), (0, top)], 0.06)))
        parts.append(_of("second", [(0.05, top + 0.05), (0.05, 0.18), (0.55 + 0.3 * s.c, 0.18)]))
        if s.q:
            parts.append(_of("pale", [(-0.05, top + 0.15), (-0.05, 0.18), (-0.6, 0.18)]))
    if s.r:
        parts.append(_of("pale", [(-0.84, 0.4), (0.86, 0.36), (0.8, 0.47), (-0.78, 0.5)]))
    return parts


def _plane(s: Style) -> list[Part]:
    thick = 0.13 + 0.06 * s.a
    body = ellipse(0, 0, 0.95, thick)
    back = 0.35 if s.p else 0.1  # swept wings or straight ones
    root, tip = 0.24 + 0.1 * s.b, 0.1 + 0.12 * s.b
    wings = [
        [(0.2, side * thick * 0.5), (0.2 - back, side * 0.85), (0.2 - back - tip, side * 0.85),
         (0.2 - root * 1.6, side * thick * 0.5)]
        for side in (-1, 1)
    ]  # fmt: skip
    tail = [
        [
            (-0.65, 0),
            (-0.82 - 0.1 * s.p, side * (0.32 + 0.12 * s.c)),
            (-0.95 - 0.05 * s.p, side * 0.34),
            (-0.85, 0),
        ]
        for side in (-1, 1)
    ]
    parts = [_of("second" if s.q else "main", *wings, *tail), _of("main", body)]
    if s.r:
        parts.append(_of("dark", *(ellipse(0.12, side * 0.45, 0.14, 0.06) for side in (-1, 1))))
    return [*parts, _of("glass", ellipse(0.68, 0, 0.12, thick * 0.6))]


def _house(s: Style) -> list[Part]:
    eaves = -0.15 - 0.15 * s.a
    half = 0.62 + 0.2 * s.b
    ridge = [(-half - 0.15, eaves), (-0.35, -0.85), (0.35, -0.85), (half + 0.15, eaves)] if s.p else \
        [(-half - 0.15, eaves), (0, -0.9), (half + 0.15, eaves)]  # fmt: skip
    parts = [_of("dark", box(0.3, -0.85, 0.5, eaves))] if s.q else []
    panes = [box(x, 0.05, x + 0.3, 0.38) for x in ((-0.52, 0.24) if s.r else (0.15,))]
    door = box(-0.14, 0.25, 0.14, 0.85) if s.r else box(-0.45, 0.2, -0.12, 0.85)
    return [*parts, _of("main", box(-half, eaves, half, 0.85)), _of("second", ridge), _of("glass", *panes),
            _of("dark", door)]  # fmt: skip


def _tree(s: Style) -> list[Part]:
    trunk = 0.08 + 0.06 * s.a
    parts = [_of("dark", box(-trunk, 0.1, trunk, 0.95))]
    if s.p:  # a conifer
        layers = 4 if s.q else 3
        tiers = []
        for i in range(layers):
            top, wide = -0.95 + i * 0.38, 0.3 + (0.35 + 0.2 * s.b) * (i + 1) / layers
            tiers.append([(0, top), (wide, top + 0.62), (-wide, top + 0.62)])
        parts.append(_of("main", *tiers))
    else:
        size = 0.38 + 0.1 * s.b
        blobs = [(-0.32, -0.2), (0.32, -0.2), (0, -0.5), (0, -0.1)] if s.q else [(0, -0.32), (0, -0.25)]
        parts.append(_of("main", *(ellipse(x, y, size if s.q else size + 0.22, size) for x, y in blobs)))
    if s.r:
        parts.append(
            _of("second", *(ellipse(x, y, 0.08) for x, y in ((-0.25, -0.1), (0.2, -0.35), (0.1, 0.0))))
        )
    return parts


def _flower(s: Style) -> list[Part]:
    petals = 5 + 3 * s.p
    far, length = 0.3 + 0.08 * s.a, 0.2 + 0.08 * s.b
    turn = np.arange(petals) * 2 * np.pi / petals
    heads = [
        ellipse(far * np.cos(t), -0.42 + far * np.sin(t), length, length * (0.45 if s.q else 0.75), t)
        for t in turn
    ]
    leaves = [ellipse(side * 0.25, 0.5, 0.26, 0.1, -side * 0.6) for side in ((-1, 1) if s.r else (1,))]
    stem = stroke([(0, -0.3), (0.06 * (s.c - 0.5), 0.3), (0, 0.95)], 0.09)
    return [_of("green", *stem, *leaves), _of("main", *heads), _of("second", ellipse(0, -0.42, 0.2))]


def _cup(s: Style) -> list[Part]:
    top, foot = 0.5 + 0.12 * s.a, 0.5 if s.p else 0.28
    bowl = [(-top, -0.5), (top, -0.5), (foot, 0.6), (-foot, 0.6)]
    low = 0.3 if s.q else 0.1
    handle = stroke(
        arc(top - 0.02, -0.1, 0.36, 0.2 + low / 2, -np.pi / 2 - 0.3, np.pi / 2 + 0.3, count=12), 0.12
    )
    parts = [_of("main", *handle, bowl), _of("dark", ellipse(0, -0.5, top, 0.13))]
    if s.r:
        parts.append(_of("second", ellipse(0, 0.7, 0.85, 0.13)))
    return [
        *parts,
        _of("pale", [(-top * 0.8, -0.25), (-top * 0.6, -0.25), (-foot * 0.6, 0.4), (-foot * 0.8, 0.4)]),
    ]


def _bottle(s: Style) -> list[Part]:
    body, neck = 0.26 + 0.1 * s.a, 0.09 + 0.03 * s.b
    shoulder = -0.25 + 0.2 * s.c
    sides = [(neck, -0.85), (neck, shoulder - (0.35 if s.p else 0.12)), (body, shoulder), (body, 0.95)]
    outline = [*sides, *((-x, y) for x, y in reversed(sides))]
    parts = [_of("main", outline), _of("dark", box(-neck - 0.03, -0.97, neck + 0.03, -0.82))]
    label = ellipse(0, 0.4, body * 0.8, 0.24) if s.q else box(-body, 0.2, body, 0.65)
    parts.append(_of("pale" if s.r else "second", label))
    return parts


def _lamp(s: Style) -> list[Part]:
    top, wide = 0.2 + 0.2 * s.a, 0.55 + 0.15 * s.b
    low = -0.1 + 0.1 * s.c
    shade = (
        arc(0, low, wide, 0.8, np.pi, 2 * np.pi)
        if s.p
        else [(-top, -0.9), (top, -0.9), (wide, low), (-wide, low)]
    )
    foot = ellipse(0, 0.4, 0.24, 0.4) if s.q else box(-0.05, low, 0.05, 0.85)
    base = box(-0.4, 0.82, 0.4, 0.95, 0.05)
    parts = [_of("second", foot, base), _of("main", shade)]
    if s.r:
        parts.append(_of("dark", *stroke([(wide * 0.7, low), (wide * 0.7, low + 0.3)], 0.04),
                         ellipse(wide * 0.7, low + 0.34, 0.06)))  # fmt: skip
    return parts


def _chair(s: Style) -> list[Part]:
    seat, leg = 0.1 + 0.1 * s.a, 0.1 + 0.04 * s.b
    left = -0.5
    frame = [
        box(left, -0.95, left + leg, 0.95),
        box(0.45, seat, 0.45 + leg, 0.95),
        box(left, seat, 0.58, seat + 0.16),
    ]
    if s.p:
        frame += [
            box(left + 0.25, seat, left + 0.25 + leg * 0.8, 0.8),
            box(0.25, seat, 0.25 + leg * 0.8, 0.8),
        ]
    if s.q:
        frame.append(box(left, 0.55, 0.5, 0.63))
    parts = [_of("main", *frame)]
    parts.append(_of("main", [(left, -0.95), (left + 0.2, -0.9), (left + 0.25, seat), (left, seat)]))
    if s.r:
        parts.append(_of("second", box(left + 0.08, seat - 0.12, 0.55, seat + 0.03, 0.05)))
    return parts


def _umbrella(s: Style) -> list[Part]:
    deep = 0.6 + 0.2 * s.a
    dome = arc(0, -0.1, 0.95, deep, np.pi, 2 * np.pi)
    scallops = 4 if s.p else 3
    wide = 1.9 / scallops
    cut = [ellipse(-0.95 + (i + 0.5) * wide, -0.08, wide / 2, 0.1) for i in range(scallops)]
    hook = [(0, -0.1), (0, 0.7), *arc(-0.16 if s.q else 0.16, 0.7, 0.16, 0.18, 0 if s.q else np.pi,
                                      np.pi if s.q else 0, count=8)]  # fmt: skip
    parts = [
        _of("dark", *stroke(hook, 0.08), *stroke([(0, -0.1 - deep), (0, -0.2 - deep)], 0.06)),
        _of("main", dome),
    ]
    if s.r:
        panel = [*arc(0, -0.1, 0.95, deep, np.pi * 1.3, np.pi * 1.7), (0.2, -0.1), (-0.2, -0.1)]
        parts.append(_of("second", panel))
    return [*parts, _of("main", *cut)]


def _key(s: Style) -> list[Part]:
    ring = 0.24 + 0.08 * s.a
    bow = stroke(arc(-0.6, 0, ring, ring if s.p else ring * 0.75, 0, 2 * np.pi, count=24), 0.15)
    shaft = box(-0.4, -0.07, 0.95, 0.07)
    teeth = [box(0.7, 0, 0.8, 0.25 + 0.1 * s.b), box(0.86, 0, 0.95, 0.32)]
    if s.q:
        teeth.append(box(0.52, 0, 0.62, 0.3))
    parts = [_of("main", *bow, shaft, *teeth)]
    return [*parts, _of("second", box(-0.3, -0.11, -0.2, 0.11))] if s.r else parts


def _cat(s: Style) -> list[Part]:
    tall, ear = 0.42 + 0.1 * s.a, 0.3 + 0.15 * s.b
    ears = [[(side * 0.42, -0.3), (side * 0.36, -0.45 - ear), (side * 0.05, -0.55)] for side in (-1, 1)]
    tail = stroke(arc(0.42, 0.35, 0.38, 0.5, np.pi / 2, -np.pi / 2.5, count=10), 0.14)
    body = ellipse(0, 0.5, 0.42 + 0.1 * s.c, 0.46)
    parts = [_of("main", *tail, body, *ears, ellipse(0, -0.25, 0.48, tall))]
    if s.p:
        parts.append(_of("pale", ellipse(0, 0.58, 0.22, 0.3), ellipse(0, -0.08, 0.2, 0.14)))
    eyes = [ellipse(side * 0.19, -0.3, 0.07 if s.q else 0.1, 0.1) for side in (-1, 1)]
    lines = [stroke([(side * 0.12, -0.08), (side * 0.55, -0.02 + up)], 0.035)
             for side in (-1, 1) for up in ((-0.1, 0.08) if s.r else (0,))]  # fmt: skip
    return [
        *parts,
        _of("dark", *eyes, [(-0.07, -0.15), (0.07, -0.15), (0, -0.05)], *(x for line in lines for x in line)),
    ]


def _fish(s: Style) -> list[Part]:
    tall = 0.36 + 0.14 * s.a
    tail = [(0.5, 0), (0.95, -0.42), (0.8 if s.p else 0.95, 0), (0.95, 0.42)]
    fin = [(-0.1, -tall * 0.8), (0.15, -tall - 0.28), (0.4, -tall * 0.55)]
    parts = [_of("second" if s.q else "main", tail, fin, [(0.0, tall * 0.8), (0.2, tall + 0.2), (0.3, tall * 0.6)]),
             _of("main", ellipse(-0.15, 0, 0.75, tall))]  # fmt: skip
    if s.r:
        parts.append(_of("second", *(box(x, -tall * 0.8, x + 0.1, tall * 0.8) for x in (-0.3, 0.05))))
    return [*parts, _of("pale", ellipse(-0.6, -0.1, 0.11)), _of("dark", ellipse(-0.62, -0.1, 0.06))]


def _bird(s: Style) -> list[Part]:
    body = ellipse(0.05, 0.1, 0.55, 0.36 + 0.1 * s.a, 0.3)
    head = ellipse(-0.48, -0.35, 0.26 + 0.04 * s.b)
    tail = [(0.4, 0.15), (0.98, 0.35), (0.9, 0.6 if s.p else 0.45), (0.35, 0.42)]
    wing = ellipse(0.15, 0.1, 0.4, 0.2, 0.5) if s.q else np.array([(-0.2, 0.0), (0.45, -0.75), (0.5, 0.15)])
    beak = [(-0.7, -0.42), (-0.98, -0.3), (-0.68, -0.24)]
    legs = stroke([(0.0, 0.45), (0.0, 0.9)], 0.05) + stroke([(0.2, 0.45), (0.2, 0.9)], 0.05)
    parts = [_of("dark", *legs), _of("main", tail, body, head), _of("second", wing), _of("orange", beak)]
    if s.r:
        parts.append(_of("main", [(-0.55, -0.55), (-0.4, -0.85), (-0.3, -0.5)]))
    return [*parts, _of("dark", ellipse(-0.54, -0.4, 0.055))]


def _butterfly(s: Style) -> list[Part]:
    big, small = 0.34 + 0.1 * s.a, 0.26 + 0.08 * s.b
    upper = [ellipse(side * 0.45, -0.35, 0.46, big, -side * (0.6 if s.p else 0.9)) for side in (-1, 1)]
    lower = [ellipse(side * 0.36, 0.35, 0.36, small, side * 0.7) for side in (-1, 1)]
    spots = [ellipse(side * 0.52, -0.42, 0.14) for side in (-1, 1)]
    if s.q:
        spots += [ellipse(side * 0.4, 0.4, 0.11) for side in (-1, 1)]
    feelers = stroke([(-0.3, -0.95), (0, -0.5), (0.3, -0.95)], 0.05)
    return [_of("main", *upper), _of("second" if s.r else "main", *lower), _of("pale", *spots),
            _of("dark", ellipse(0, 0, 0.08, 0.58), *feelers)]  # fmt: skip


def _mushroom(s: Style) -> list[Part]:
    deep, stem = 0.55 + 0.3 * s.a, 0.16 + 0.1 * s.b
    cap = arc(0, -0.05, 0.85, deep, np.pi, 2 * np.pi) if not s.p else np.array(
        [(-0.85, 0.0), (-0.35, -0.6), (0, -0.9), (0.35, -0.6), (0.85, 0.0)])  # fmt: skip
    foot = [
        (-stem, -0.1),
        (stem, -0.1),
        (stem * (1.6 if s.q else 1.0), 0.9),
        (-stem * (1.6 if s.q else 1.0), 0.9),
    ]
    parts = [_of("pale", foot), _of("main", cap, ellipse(0, -0.03, 0.85, 0.12))]
    if s.r:
        parts.append(
            _of("pale", *(ellipse(x, y, 0.1) for x, y in ((-0.4, -0.22), (0.05, -0.42), (0.42, -0.2))))
        )
    return parts


def _guitar(s: Style) -> list[Part]:
    low = 0.42 + 0.08 * s.a
    body = [ellipse(0, 0.5, low, 0.42), ellipse(0, 0.02, low * 0.75, 0.3)]
    if s.p:
        body.append(np.array([(0, 0.1), (-0.42, -0.32), (-0.1, -0.1)]))
    neck = box(-0.06, -0.85, 0.06, 0.3)
    head = (
        box(-0.13, -0.98, 0.13, -0.76)
        if s.q
        else np.array([(-0.08, -0.75), (-0.16, -0.98), (0.16, -0.98), (0.08, -0.75)])
    )
    parts = [_of("main", *body), _of("second", neck, head)]
    if s.r:
        parts.append(_of("pale", ellipse(0.22, 0.42, 0.12, 0.24)))
    return [*parts, _of("dark", ellipse(0, 0.25, 0.14), box(-0.2, 0.62, 0.2, 0.7))]


OBJECTS: dict[str, Callable[[Style], list[Part]]] = {
    "bicycle": _bicycle, "bird": _bird, "boat": _boat, "bottle": _bottle, "bus": _bus, "butterfly": _butterfly,
    "car": _car, "cat": _cat, "chair": _chair, "cup": _cup, "fish": _fish, "flower": _flower, "guitar": _guitar,
    "house": _house, "key": _key, "lamp": _lamp, "mushroom": _mushroom, "plane": _plane, "tree": _tree,
    "umbrella": _umbrella,
}  # fmt: skip
