"""What a sensor records in the dark, a noisy Bayer mosaic, and the picture it should become.

Knows cameras: colour filters, white balance, noise, black level, exposure. Knows nothing of networks.

A view is taken back to linear light and the camera's own colours ("unprocessing", Brooks et al. 2019), darkened
by the exposure ratio as in See-in-the-Dark (Chen et al. 2018), sampled as RGGB, and recorded with shot and read noise
(variance = shot * signal + read, Foi et al. 2008), row banding, black level and 12 bits. Train and test differ in
places (facts["places"]) and cameras (facts["cameras"]: colour matrix, noise, black level).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.fields import Field
from ondevice.data.rendered.outdoors import place, view
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
PLACES = {"train": range(1000, 1200), "test": range(1200, 1260)}
WHITE = 4095


@dataclass(frozen=True)
class Camera:
    """matrix: camera colours to linear sRGB, rows sum to 1. black: level of no light, of 4095. shot, read: noise
    variance at base gain in units of full scale (see the module). banding: deviation of a row's offset."""

    matrix: list[list[float]]
    black: int
    shot: float
    read: float
    banding: float


CAMERAS = {
    "compact": Camera([[1.62, -0.47, -0.15], [-0.22, 1.55, -0.33], [0.02, -0.55, 1.53]], 256, 5e-4, 1e-6, 2e-4),
    "phone": Camera([[1.78, -0.66, -0.12], [-0.28, 1.63, -0.35], [0.05, -0.62, 1.57]], 240, 8e-4, 2e-6, 3e-4),
    "mirrorless": Camera([[1.70, -0.55, -0.15], [-0.18, 1.48, -0.30], [0.03, -0.48, 1.45]], 512, 2.5e-4, 3e-7, 1e-4),
    "action": Camera([[1.85, -0.70, -0.15], [-0.25, 1.60, -0.35], [0.00, -0.58, 1.58]], 168, 1e-3, 3e-6, 4e-4),
    "webcam": Camera([[1.55, -0.40, -0.15], [-0.30, 1.70, -0.40], [0.04, -0.66, 1.62]], 128, 1.2e-3, 5e-6, 5e-4),
}  # fmt: skip
_SPLIT = {"train": ("compact", "phone", "mirrorless"), "test": ("action", "webcam")}


def make(split: str, count: int, *, seed: int = 0, size: int = 96) -> DataSet:
    """Mosaics and pictures of the same size.

    mosaic uint16 (n, size, size), RGGB from the corner, 0..4095; images uint8 (n, size, size, 3), sRGB; black
    float32 (n,); balance float32 (n, 3), what the channels are to be multiplied by for white; matrix float32
    (n, 3, 3), then to linear sRGB; ratio float32 (n,), how much too short the exposure was; shot, read float32 (n,),
    noise at this gain; cameras, places int64 (n,). `develop` is the plain pipeline without a network.
    Raises BadInput for another split, an empty set and an odd size.
    """
    if count < 1 or size < 32 or size % 2:
        raise BadInput(f"{count} mosaics of {size} pixels: give 1 or more, of an even number of 32 or more")
    settings = {"split": split, "count": count, "seed": seed, "size": size, "version": VERSION}
    random = generator("raw", split, seed)

    def render() -> DataSet:
        names = _SPLIT[split]
        places = np.array(PLACES[split])[np.arange(count) % len(PLACES[split])]
        cameras = np.asarray(random.integers(0, len(names), count), np.int64)
        rows = [
            _shot(random, int(spot), CAMERAS[names[camera]], size) for spot, camera in zip(places, cameras)
        ]
        arrays: dict[str, Array | Ragged] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        arrays |= {"cameras": cameras, "places": places.astype(np.int64)}
        facts = {
            "cameras": list(names),
            "places": [PLACES[split].start, PLACES[split].stop],
            "pattern": "RGGB",
            "white": WHITE,
        }
        return DataSet("raw", split, arrays, (), facts, VERSION)

    return kept("raw", settings, render) if count > 128 else render()


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The mosaic lightened, in the colours of its filters; what the plain pipeline makes of it; the picture."""
    light = samples["mosaic"][row] - samples["black"][row]
    light = np.clip(light * samples["ratio"][row] / (WHITE - samples["black"][row]), 0, 1) ** (1 / 2.2)
    coloured = np.where(_filters(len(light)), light[..., None], 0.0)
    plain = develop(samples, row)
    return np.concatenate([np.round(255 * coloured).astype(np.uint8), plain, samples["images"][row]], axis=1)


def develop(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The classical pipeline: black level, exposure, white balance, bilinear demosaicing, colour matrix, sRGB curve.

    Gives uint8 (height, width, 3). What a network has to beat.
    """
    mosaic, black = samples["mosaic"][row].astype(np.float64), float(samples["black"][row])
    light = (mosaic - black) / (WHITE - black) * float(samples["ratio"][row])
    colours = _demosaiced(light) * samples["balance"][row].astype(np.float64)
    linear = np.clip(colours, 0, 1) @ samples["matrix"][row].astype(np.float64).T
    return np.round(255 * _curve(np.clip(linear, 0, 1))).astype(np.uint8)


def _shot(random: np.random.Generator, spot: int, camera: Camera, size: int) -> dict[str, Array]:
    own = np.random.default_rng([spot, *b"raw place"])
    picture, _ = view(place(own), random, size)
    picture = np.round(255 * picture) / 255
    balance = np.array([random.uniform(1.6, 2.4), 1.0, random.uniform(1.4, 2.2)])
    inverse = np.linalg.inv(np.array(camera.matrix))
    sensed = np.clip(_linear(picture) @ inverse.T, 0, 1) / balance
    ratio = float(np.exp(random.uniform(np.log(3), np.log(40))))
    gain = min(ratio, 16.0)  # amplified before the converter; the rest of the ratio is made up in numbers
    mosaic = np.where(_filters(size), sensed, 0).sum(axis=2) / ratio * gain
    shot, read = camera.shot * gain, camera.read * gain**2
    mosaic = mosaic + random.normal(0, 1, mosaic.shape) * np.sqrt(shot * mosaic + read)
    mosaic += random.normal(0, camera.banding * gain, (size, 1))
    counts = np.clip(np.round(camera.black + mosaic * (WHITE - camera.black)), 0, WHITE)
    return {
        "mosaic": counts.astype(np.uint16),
        "images": np.round(255 * picture).astype(np.uint8),
        "black": np.array(camera.black, np.float32),
        "balance": balance.astype(np.float32),
        "matrix": np.array(camera.matrix, np.float32),
        "ratio": np.array(ratio / gain, np.float32),
        "shot": np.array(shot, np.float32),
        "read": np.array(read, np.float32),
    }


def _filters(size: int) -> npt.NDArray[np.bool_]:
    """Which channel each pixel sees, (size, size, 3): red in the corner, green beside and below, blue across."""
    seen = np.zeros((size, size, 3), np.bool_)
    seen[0::2, 0::2, 0] = True
    seen[0::2, 1::2, 1] = seen[1::2, 0::2, 1] = True
    seen[1::2, 1::2, 2] = True
    return seen


def _demosaiced(mosaic: Field) -> Field:
    """Bilinear: every channel's mean over the pixels of a 3 x 3 window that saw it, nearer ones counting more."""
    seen = _filters(len(mosaic))
    values, weights = np.where(seen, mosaic[..., None], 0.0), seen.astype(np.float64)
    sums, counts = np.zeros_like(values), np.zeros_like(values)
    size = len(mosaic)
    for rows in (-1, 0, 1):
        for columns in (-1, 0, 1):
            share = (2 - abs(rows)) * (2 - abs(columns)) / 4
            for total, part in ((sums, values), (counts, weights)):
                padded = np.pad(part, ((1, 1), (1, 1), (0, 0)))
                total += share * padded[1 + rows : 1 + rows + size, 1 + columns : 1 + columns + size]
    return sums / counts


def _curve(linear: Field) -> Field:
    """Linear light to sRGB (IEC 61966-2-1)."""
    return np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055
    )


def _linear(picture: Field) -> Field:
    return np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
