"""A street, park or square cast ray by ray: a picture and how far away each pixel is.

Knows a place as a ground, boxes (houses, cars), flat cut-outs (trees, people, posts) and a sky, in metres, z
ahead, x to the right, y up. Knows nothing of fog, cameras' faults or sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import blur, hsv
from ondevice.data.rendered.fields import Field, fractal, smooth

SKY = 2000.0  # metres: what the sky counts as
_EYE = 1.7
_FOCAL = 0.95  # of the picture's side


@dataclass(frozen=True)
class _Box:
    """low, high: corners (3,). kind: house or car. paint, trim: colours. grid: metres between windows."""

    low: Field
    high: Field
    kind: str
    paint: Field
    trim: Field
    grid: float


@dataclass(frozen=True)
class _Cutout:
    """Stands at (x, z), turned to the camera. kind: tree, bush, person or post."""

    x: float
    z: float
    height: float
    kind: str
    paint: Field
    seed: int


@dataclass(frozen=True)
class Place:
    """Where pictures are taken: everything that stays the same between two of them."""

    boxes: list[_Box]
    cutouts: list[_Cutout]
    road: float
    ground: tuple[Field, Field]
    sky: tuple[Field, Field]
    sun: Field
    hills: float
    texture: Field = field(repr=False)


def place(random: np.random.Generator) -> Place:
    """A place that nobody has seen: a street between houses, a road through a park, or an open square."""
    kind = random.choice(["street", "park", "square"], p=[0.45, 0.3, 0.25])
    road = {"street": 3.6, "park": 2.2, "square": 0.0}[kind] * random.uniform(0.9, 1.2)
    boxes: list[_Box] = []
    cutouts: list[_Cutout] = []
    for side in (-1, 1):
        z = random.uniform(-4, 6)
        while z < 160:
            deep, wide, high = random.uniform(8, 16), random.uniform(7, 12), random.uniform(5, 15)
            gap = {
                "street": random.uniform(0, 3),
                "park": random.uniform(15, 60),
                "square": random.uniform(4, 18),
            }[kind]
            back = {
                "street": random.uniform(3, 4.5),
                "park": random.uniform(10, 25),
                "square": random.uniform(9, 20),
            }[kind]
            near, far = side * (road + back), side * (road + back + wide)
            paint = hsv(random.uniform(0.0, 0.14), random.uniform(0.1, 0.55), random.uniform(0.5, 0.95))
            trim = hsv(random.uniform(0, 1), random.uniform(0, 0.5), random.uniform(0.25, 0.9))
            boxes.append(
                _Box(np.array([min(near, far), 0, z]), np.array([max(near, far), high, z + deep]), "house", paint, trim,
                     random.uniform(2.0, 3.4))
            )  # fmt: skip
            z += deep + gap
    for _ in range(int(random.integers(2, 8))):
        side, z = random.choice([-1, 1]), random.uniform(6, 70)
        x = side * (road - 1.0) if road else random.uniform(-8, 8)
        paint = hsv(random.random(), random.uniform(0.1, 0.9), random.uniform(0.2, 0.95))
        for below, above in (
            ((-0.85, 0.25, -2.1), (0.85, 0.9, 2.1)),
            ((-0.75, 0.9, -1.2), (0.75, 1.45, 1.1)),
        ):
            corner = np.array([x, 0, z])
            boxes.append(_Box(corner + below, corner + above, "car", paint, paint * 0.5, 0.0))
    plants = {"street": 10, "park": 34, "square": 12}[kind]
    for _ in range(plants):
        side, z = random.choice([-1, 1]), random.uniform(5, 120) ** 1.0
        x = side * (road + random.uniform(1.0, 4.0 if kind == "street" else 22.0))
        tall = random.random() < 0.75
        leaf = hsv(random.uniform(0.17, 0.36), random.uniform(0.35, 0.8), random.uniform(0.25, 0.6))
        height = random.uniform(4.5, 10) if tall else random.uniform(0.8, 1.8)
        cutouts.append(_Cutout(x, z, height, "tree" if tall else "bush", leaf, int(random.integers(2**31))))
    for z in np.arange(random.uniform(8, 16), 130, random.uniform(16, 26)):
        grey = hsv(0.6, 0.1, random.uniform(0.15, 0.4))
        cutouts.append(
            _Cutout(random.choice([-1, 1]) * (road + 0.7), z, random.uniform(5, 7), "post", grey, 0)
        )
    for _ in range(int(random.integers(1, 7))):
        coat = hsv(random.random(), random.uniform(0.2, 0.9), random.uniform(0.2, 0.9))
        x = random.choice([-1, 1]) * (road + random.uniform(0.4, 2.2)) if road else random.uniform(-7, 7)
        cutouts.append(
            _Cutout(
                x,
                random.uniform(5, 40),
                random.uniform(1.5, 1.9),
                "person",
                coat,
                int(random.integers(2**31)),
            )
        )
    grass = hsv(random.uniform(0.18, 0.33), random.uniform(0.3, 0.6), random.uniform(0.3, 0.6))
    stone = hsv(random.uniform(0.05, 0.15), random.uniform(0.03, 0.2), random.uniform(0.45, 0.7))
    tar = hsv(0.6, random.uniform(0.0, 0.1), random.uniform(0.25, 0.45))
    zenith = hsv(random.uniform(0.55, 0.62), random.uniform(0.15, 0.6), random.uniform(0.6, 0.9))
    horizon = zenith + (np.array([0.92, 0.93, 0.95]) - zenith) * random.uniform(0.5, 0.9)
    sun = np.array([random.uniform(-1, 1), random.uniform(0.6, 1.2), random.uniform(-1, 0.2)])
    return Place(
        boxes, cutouts, road, (tar if road else stone, grass if kind == "park" else stone), (horizon, zenith),
        sun / np.linalg.norm(sun), random.uniform(0.02, 0.10), np.abs(fractal(random, 256, 256, 24, 4)),
    )  # fmt: skip


def view(site: Place, random: np.random.Generator, size: int) -> tuple[Field, Field]:
    """A picture (size, size, 3) in 0..1 and the distance of each pixel in metres (size, size), the sky `SKY`.

    Two rays a pixel each way; the distance is that of the nearest of the four.
    """
    side = 2 * size
    eye = np.array([random.uniform(-0.5, 0.5) * max(site.road, 3.0), _EYE, random.uniform(0, 25)])
    turn, pitch = random.normal(0, 0.12), random.normal(0.02, 0.03)
    across, up = np.meshgrid(
        (np.arange(side) + 0.5) / side - 0.5, 0.5 - (np.arange(side) + 0.5) / side, indexing="xy"
    )
    across, up = across / _FOCAL, up / _FOCAL + pitch
    rays = np.stack([across * np.cos(turn) + np.sin(turn), up, np.cos(turn) - across * np.sin(turn)], axis=2)
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    # nobody takes a picture of a car's boot from a metre away
    boxes = [box for box in site.boxes if box.kind != "car" or not box.low[2] - 4 < eye[2] < box.high[2] + 1]
    cutouts = [cutout for cutout in site.cutouts if cutout.z > eye[2] + 2.5]
    site = replace(site, boxes=boxes, cutouts=cutouts)
    picture, depth = _sky(site, random, rays)
    _ground(site, eye, rays, picture, depth)
    for box in site.boxes:
        _box(site, box, eye, rays, picture, depth)
    for cutout in site.cutouts:
        _cutout(site, cutout, eye, rays, picture, depth)
    small = picture.reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
    return np.clip(blur(small, 0.35), 0, 1), depth.reshape(size, 2, size, 2).min(axis=(1, 3))


def _sky(site: Place, random: np.random.Generator, rays: Field) -> tuple[Field, Field]:
    side = len(rays)
    horizon, zenith = site.sky
    height = np.clip(rays[..., 1] * 2.2, 0, 1)[..., None]
    picture = horizon + (zenith - horizon) * height**0.7
    clouds = np.clip(fractal(random, side, side, side / 3, 5) * 0.8, 0, 1)[..., None] * height**0.5
    picture = picture + (0.97 - picture) * clouds
    # hills along the horizon: hardly any texture, far away
    azimuth = np.arctan2(rays[..., 0], rays[..., 2])
    column = (azimuth * 60 % 256).astype(int)
    ridge = site.hills * (0.5 + site.texture[40, column] * 0.6 + 0.1 * site.texture[90, (column * 3) % 256])
    hill = rays[..., 1] < ridge
    shade = np.array([0.33, 0.42, 0.36]) * (0.9 + 0.15 * smooth(random, side, side, 9))[..., None]
    picture = np.where(hill[..., None], 0.55 * shade + 0.45 * horizon, picture)
    return picture, np.where(hill, 700.0, SKY)


def _worn(site: Place, u: Field, v: Field) -> Field:
    """The place's texture at coordinates that repeat every 256; about 0..1.5."""
    return np.asarray(site.texture[np.floor(v).astype(int) % 256, np.floor(u).astype(int) % 256])


def _ground(site: Place, eye: Field, rays: Field, picture: Field, depth: Field) -> None:
    down = rays[..., 1] < -1e-3
    far = np.where(down, -eye[1] / np.where(down, rays[..., 1], -1.0), np.inf)
    hit = far < np.minimum(depth, 400.0)
    x, z = eye[0] + far[hit] * rays[hit][:, 0], eye[2] + far[hit] * rays[hit][:, 2]
    tar, beside = site.ground
    fade = np.exp(-far[hit] / 60)[:, None]  # fine texture blurs with distance
    rough = 1 + 0.35 * fade * (_worn(site, x * 40, z * 40)[:, None] - 0.6)
    rough *= 1 + 0.22 * (_worn(site, x * 5, z * 5)[:, None] - 0.6)
    colour = beside * rough
    if site.road:
        on = np.abs(x) < site.road
        colour[on] = (tar * (0.7 + 0.3 * rough))[on]
        kerb = np.abs(np.abs(x) - site.road - 0.1) < 0.12
        colour[kerb] = 0.72
        middle = (np.abs(x) < 0.09) & ((z % 6) < 3)
        colour[middle] = 0.88
    else:
        joints = ((x % 1.5) < 0.06) | ((z % 1.5) < 0.06)
        colour[joints] *= 1 - 0.3 * fade[joints]
    # what stands on the ground darkens it
    dark = np.ones(len(x))
    for box in site.boxes:
        if box.kind == "car":
            away = np.maximum(
                np.maximum(box.low[0] - x, x - box.high[0]), np.maximum(box.low[2] - z, z - box.high[2])
            )
            dark = np.minimum(dark, 0.4 + np.clip(away / 0.5, 0, 0.6))
    for cutout in site.cutouts:
        reach = {"tree": 0.28 * cutout.height, "person": 0.35}.get(cutout.kind)
        if reach:
            dark = np.minimum(dark, 0.55 + 0.45 * np.clip(np.hypot(x - cutout.x, z - cutout.z) / reach, 0, 1))
    picture[hit] = colour * dark[:, None]
    depth[hit] = far[hit]


def _window(eye: Field, rays: Field, points: Field) -> tuple[slice, slice] | None:
    """The part of the picture that these points may cover; all of it where one is behind the camera."""
    side = len(rays)
    ahead = rays[side // 2, side // 2]
    right = rays[side // 2, -1] - rays[side // 2, 0]
    right /= np.linalg.norm(right)
    up = np.cross(ahead, right)
    relative = points - eye
    z = relative @ ahead
    if (z < 0.2).all():
        return None
    if (z < 0.2).any():
        return slice(0, side), slice(0, side)
    x = (0.5 + relative @ right / z * _FOCAL) * side
    y = (0.5 - relative @ up / z * _FOCAL) * side
    margin = side // 16  # the directions are those of the middle ray: near enough with a margin
    rows = slice(max(0, int(y.min()) - margin), min(side, int(y.max()) + margin))
    columns = slice(max(0, int(x.min()) - margin), min(side, int(x.max()) + margin))
    return None if rows.start >= rows.stop or columns.start >= columns.stop else (rows, columns)


def _box(site: Place, box: _Box, eye: Field, rays: Field, picture: Field, depth: Field) -> None:
    corners = np.stack(np.meshgrid(*zip(box.low, box.high), indexing="ij"), axis=-1).reshape(-1, 3)
    part = _window(eye, rays, corners)
    if part is None:
        return
    seen, near = rays[part], depth[part]
    with np.errstate(divide="ignore"):
        inverse = 1 / np.where(np.abs(seen) < 1e-9, 1e-9, seen)
    first, second = (box.low - eye) * inverse, (box.high - eye) * inverse
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    far = enter.max(axis=2)
    hit = (far < leave.min(axis=2)) & (far > 0.1) & (far < near)
    if not hit.any():
        return
    axis, t = enter[hit].argmax(axis=1), far[hit]
    point = eye + t[:, None] * seen[hit]
    normal = np.zeros((len(t), 3))
    normal[np.arange(len(t)), axis] = -np.sign(seen[hit][np.arange(len(t)), axis])
    light = 0.55 + 0.5 * np.clip(normal @ site.sun, 0, 1)
    along = np.where(axis == 0, point[:, 2] - box.low[2], point[:, 0] - box.low[0])
    height = point[:, 1]
    colour = box.paint * (0.85 + 0.2 * _worn(site, along * 12, height * 12))[:, None]
    if box.kind == "house":
        u, v = along / box.grid % 1, height / 2.9 % 1
        top = box.high[1] - height
        wall = (axis != 1) & (top > 0.7)
        glass = wall & (np.abs(u - 0.5) < 0.24) & (np.abs(v - 0.55) < 0.27)
        frame = wall & (np.abs(u - 0.5) < 0.29) & (np.abs(v - 0.55) < 0.31) & ~glass
        lit = _worn(site, np.floor(along / box.grid) * 37 + box.low[2], np.floor(height / 2.9) * 91)
        colour[frame] = 0.85 * box.trim + 0.1
        colour[glass] = np.array([0.2, 0.25, 0.32]) + 0.25 * lit[glass][:, None] * (v[glass] > 0.5)[:, None]
        colour[(axis != 1) & (top < 0.35)] = box.trim * 0.7
    else:
        cabin = box.low[1] > 0.5
        if cabin:
            colour[(axis != 1) & (height < box.high[1] - 0.1)] = np.array([0.13, 0.16, 0.19])
        else:
            wheel = (axis == 0) & (np.hypot(np.abs(along - 2.1) - 1.3, height - 0.3) < 0.36)
            colour[wheel] = 0.07
            lamp = (axis == 2) & (np.abs(np.abs(along - 0.85) - 0.65) < 0.15) & (np.abs(height - 0.65) < 0.1)
            colour[lamp] = np.array([0.75, 0.15, 0.12])
    block, blocked = picture[part], depth[part]
    block[hit] = colour * light[:, None]
    blocked[hit] = t


def _cutout(site: Place, cutout: _Cutout, eye: Field, rays: Field, picture: Field, depth: Field) -> None:
    wide = {"tree": 0.42, "bush": 0.8, "post": 0.2, "person": 0.3}[cutout.kind] * cutout.height
    x, z, h = cutout.x, cutout.z, cutout.height
    part = _window(eye, rays, np.array([[x + s * wide, y, z] for s in (-1, 1) for y in (0.0, h)]))
    if part is None:
        return
    seen, near = rays[part], depth[part]
    far = (z - eye[2]) / np.where(seen[..., 2] > 1e-3, seen[..., 2], np.nan)
    u = (eye[0] + far * seen[..., 0] - x) / h
    v = (eye[1] + far * seen[..., 1]) / h
    ok = (far > 0.3) & (far < near) & (v > 0) & (v < 1) & (np.abs(u) < wide / h)
    if not ok.any():
        return
    shape, colour = _SHAPES[cutout.kind](site, cutout, np.where(ok, u, 0), np.where(ok, v, 0))
    ok &= shape
    block, blocked = picture[part], depth[part]
    block[ok] = colour[ok]
    blocked[ok] = far[ok]


def _tree(site: Place, cutout: _Cutout, u: Field, v: Field) -> tuple[npt.NDArray[np.bool_], Field]:
    random = np.random.default_rng(cutout.seed)
    crown = np.zeros(u.shape, np.bool_)
    light = np.zeros(u.shape)
    ragged = 0.35 * (_worn(site, u * 90 + cutout.seed % 97, v * 90) - 0.6)
    for _ in range(9):
        a, b, radius = random.uniform(-0.2, 0.2), random.uniform(0.48, 0.84), random.uniform(0.11, 0.19)
        inside = np.hypot(u - a, v - b) / radius + ragged < 1
        crown |= inside
        light = np.where(
            inside, 0.62 + 0.8 * (v - b + 0.4 * (u - a) * site.sun[0]) / radius * 0.4 + 0.2, light
        )
    leaves = 0.65 + 0.55 * _worn(site, u * 150, v * 150 + cutout.seed % 89)
    colour = cutout.paint * (light * leaves)[..., None]
    trunk = (np.abs(u) < 0.028 - 0.012 * v) & (v < 0.6) & ~crown
    colour[trunk] = np.array([0.28, 0.21, 0.16])
    return crown | trunk, colour


def _bush(site: Place, cutout: _Cutout, u: Field, v: Field) -> tuple[npt.NDArray[np.bool_], Field]:
    ragged = 0.3 * (_worn(site, u * 60 + cutout.seed % 97, v * 60) - 0.6)
    leaves = 0.45 + 0.5 * v + 0.4 * _worn(site, u * 90, v * 90)
    return np.hypot(u / 0.75, v) + ragged < 0.9, cutout.paint * leaves[..., None]


def _post(site: Place, cutout: _Cutout, u: Field, v: Field) -> tuple[npt.NDArray[np.bool_], Field]:
    pole = (np.abs(u) < 0.011) | ((v > 0.965) & (u > 0) & (u < 0.17))
    lamp = (np.abs(v - 0.955) < 0.02) & (np.abs(u - 0.15) < 0.04)
    colour = np.broadcast_to(cutout.paint, (*u.shape, 3)).copy()
    colour[lamp] = 0.9
    return pole | lamp, colour


def _person(site: Place, cutout: _Cutout, u: Field, v: Field) -> tuple[npt.NDArray[np.bool_], Field]:
    legs = (np.abs(np.abs(u) - 0.05) < 0.037) & (v < 0.5)
    body = (np.abs(u) < 0.115 - 0.05 * np.abs(v - 0.66)) & (v >= 0.45) & (v < 0.83)
    head = np.hypot(u, v - 0.91) < 0.065
    colour = np.broadcast_to(cutout.paint, (*u.shape, 3)).copy()
    colour[legs] = np.array([0.16, 0.17, 0.22]) + 0.08 * (cutout.seed % 3)
    colour[head] = np.array([0.72, 0.53, 0.42])
    return legs | body | head, colour


_SHAPES = {"tree": _tree, "bush": _bush, "post": _post, "person": _person}
