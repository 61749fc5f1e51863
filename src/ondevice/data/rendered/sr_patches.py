"""Patches at a high and a low resolution: textures, edges, text and outdoor views.

Knows what to draw and how to make it small. Knows nothing of networks.

The low resolution is the high one by bicubic interpolation with antialiasing (Keys 1981, a = -0.5, the kernel
stretched by the scale: what Matlab's imresize and Pillow's BICUBIC do, by which DIV2K's bicubic track is made), then
rounded to 8 bits. Train and test differ in textures (facts["textures"]), fonts (facts["fonts"]) and places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import Floats, coverage, ellipse, hsv, over, pick
from ondevice.data.rendered.lettering import Font, fonts, letters
from ondevice.data.rendered.outdoors import place, view
from ondevice.data.rendered.textures import coloured, texture
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput, MissingExtra

VERSION = "1"
CONTENTS = ("texture", "edges", "text", "outdoors")
TEXTURES = {
    "train": ("clouds", "speckle", "stripes", "waves", "dots", "bricks", "grain"),
    "test": ("blobs", "checks", "cells", "rings"),
}
PLACES = {"train": range(2000, 2100), "test": range(2100, 2140)}
_INK = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789&?!,.:"


def make(split: str, count: int, *, seed: int = 0, size: int = 96, scale: int = 4) -> DataSet:
    """Pairs of patches, the four contents in turn.

    images uint8 (n, size, size, 3); low uint8 (n, size / scale, size / scale, 3); labels int64 (n,), what is on it.
    Raises BadInput for another split, an empty set, and a size that the scale does not divide.
    """
    if count < 1 or not 2 <= scale <= 8 or size % scale or size < 32:
        raise BadInput(
            f"{count} patches of {size} pixels at scale {scale}: give 1 or more, of 32 pixels or more that a "
            "scale of 2 to 8 divides"
        )
    settings = {
        "split": split,
        "count": count,
        "seed": seed,
        "size": size,
        "scale": scale,
        "version": VERSION,
    }
    random = generator("sr-patches", split, seed)
    faces = fonts(split)

    def render() -> DataSet:
        labels = np.arange(count) % len(CONTENTS)
        images = np.stack([_patch(random, split, int(label), faces, size) for label in labels])
        arrays: dict[str, Array | Ragged] = {
            "images": images,
            "low": np.stack([smaller(image, scale) for image in images]),
            "labels": labels.astype(np.int64),
        }
        facts = {
            "scale": scale,
            "kernel": "bicubic, antialiased",
            "textures": list(TEXTURES[split]),
            "fonts": [face.name for face in faces],
            "places": [PLACES[split].start, PLACES[split].stop],
        }
        return DataSet("sr-patches", split, arrays, CONTENTS, facts, VERSION)

    return kept("sr-patches", settings, render) if count > 512 else render()


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The low resolution with its pixels as squares, and the high one."""
    scale = int(samples.facts["scale"])
    return np.concatenate(
        [samples["low"][row].repeat(scale, axis=0).repeat(scale, axis=1), samples["images"][row]], axis=1
    )


def smaller(picture: npt.NDArray[np.uint8], scale: int) -> npt.NDArray[np.uint8]:
    """A picture (height, width, 3) a `scale`-th as large, by the kernel of the module."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to make pictures smaller") from error
    size = (picture.shape[1] // scale, picture.shape[0] // scale)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC), np.uint8)


def _patch(
    random: np.random.Generator, split: str, content: int, faces: tuple[Font, ...], size: int
) -> npt.NDArray[np.uint8]:
    if content == 3:
        spots = PLACES[split]
        site = place(np.random.default_rng([int(random.choice(spots)), *b"sr place"]))
        picture, _ = view(site, random, 2 * size)
        top, left = random.integers(0, size, 2)  # a part of a larger view: more detail than a whole one
        picture = picture[top : top + size, left : left + size]
    elif content == 2:
        picture = _text(random, faces, size)
    elif content == 1:
        picture = _edges(random, split, size)
    else:
        picture = _textured(random, split, size)
    return np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def _textured(random: np.random.Generator, split: str, size: int) -> Floats:
    """Two textures, one through the holes of the other."""
    layers = []
    for _ in range(2):
        kind = pick(random, TEXTURES[split])
        pattern = texture(random, kind, size, size, float(random.uniform(5, 18)))
        layers.append(coloured(pattern, _colour(random), _colour(random)))
    cut = coverage([_shape(random, size) for _ in range(2)], size, size)
    over(layers[0], cut, layers[1])
    return layers[0]


def _edges(random: np.random.Generator, split: str, size: int) -> Floats:
    """Flat and shaded shapes over each other, thin lines among them."""
    picture = np.zeros((size, size, 3)) + _colour(random)
    down = np.linspace(0, 1, size)[:, None, None]
    for _ in range(int(random.integers(5, 12))):
        paint = _colour(random) + random.normal(0, 0.15) * (down - 0.5)
        over(picture, coverage([_shape(random, size)], size, size), np.broadcast_to(paint, picture.shape))
    for _ in range(int(random.integers(2, 7))):
        a, b = random.uniform(0, size, (2, 2))
        side = np.array([a[1] - b[1], b[0] - a[0]])
        side *= random.uniform(0.4, 1.6) / max(1e-6, float(np.hypot(*side)))
        over(
            picture,
            coverage([np.array([a + side, b + side, b - side, a - side])], size, size),
            _colour(random),
        )
    return picture


def _text(random: np.random.Generator, faces: tuple[Font, ...], size: int) -> Floats:
    paper, ink = _colour(random, 0.25, 1.0), _colour(random, 0.0, 1.0)
    if abs(paper.mean() - ink.mean()) < 0.25:
        ink = np.where(paper.mean() > 0.5, 0.08, 0.95) + np.zeros(3)
    picture = np.zeros((size, size, 3)) + paper
    top = float(random.uniform(-4, 4))
    face = faces[int(random.integers(len(faces)))]
    while top < size:
        height = int(random.integers(9, 22))
        line = "".join(random.choice(list(_INK + "      "), 40))
        cover = letters(face, line, height, size, int(height * 1.5))
        first, last = max(0, int(top)), min(size, int(top) + len(cover))
        if last > first:
            over(picture[first:last], cover[first - int(top) : last - int(top)], ink)
        top += height * random.uniform(1.25, 1.6)
    return picture


def _shape(random: np.random.Generator, size: int) -> Floats:
    x, y = random.uniform(0, size, 2)
    radius = random.uniform(0.1, 0.5) * size
    if random.random() < 0.4:
        return ellipse(x, y, radius, radius * random.uniform(0.4, 1), random.uniform(0, np.pi))
    corners = int(random.integers(3, 7))
    angles = np.sort(random.uniform(0, 2 * np.pi, corners))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)


def _colour(random: np.random.Generator, low: float = 0.1, high: float = 0.95) -> Floats:
    return hsv(random.random(), random.uniform(0, 0.9), random.uniform(low, high))
