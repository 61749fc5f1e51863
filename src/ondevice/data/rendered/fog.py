"""The same view clear and in fog, with the distance of every pixel.

Knows the atmospheric scattering model and two cameras. Knows nothing of networks.

I = J t + A (1 - t), t = exp(-beta d) (Koschmieder 1924; Narasimhan and Nayar 2002): J is the clear view, d metres, A
the light of the air. As in STEREOFOG (Pohle et al. 2024), pictures come in sessions: in each the fog is dense at first
and settles, drifts in swaths, and a second camera a hand's breadth beside the first looks through it, with its own
exposure and noise. Train and test differ in sessions, each at a place of its own (facts["sessions"]).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.fields import Field, fractal, grid, sample
from ondevice.data.rendered.outdoors import SKY, place, view
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
SESSIONS = {"train": range(40), "test": range(40, 60)}
_NEAREST = 4.0  # metres: where the two cameras see things `parallax` pixels apart


def make(split: str, count: int, *, seed: int = 0, size: int = 128, parallax: bool = True) -> DataSet:
    """Pairs of views, dealt evenly to the sessions.

    images uint8 (n, size, size, 3), in fog; clear uint8 (n, size, size, 3); depth float32 (n, size, size), metres,
    of the clear view, the sky 2000; beta float32 (n,), scattering a metre in the mean (a clear sight of 3.9 / beta
    metres); air float32 (n, 3), A; sessions int64 (n,). parallax: look through the fog from the second camera, 1 to 3
    pixels apart near by; without it both views are the same pixel by pixel, as in RESIDE.
    Raises BadInput for another split or an empty set.
    """
    if count < 1 or size < 32:
        raise BadInput(f"{count} pairs of {size} pixels: give 1 or more, of 32 pixels or more")
    settings = {
        "split": split,
        "count": count,
        "seed": seed,
        "size": size,
        "parallax": parallax,
        "version": VERSION,
    }
    random = generator("fog", split, seed)

    def render() -> DataSet:
        sessions = np.array(SESSIONS[split])[np.arange(count) % len(SESSIONS[split])]
        foggy, clear = (np.zeros((count, size, size, 3), np.uint8) for _ in range(2))
        depth = np.zeros((count, size, size), np.float32)
        beta, air = np.zeros(count, np.float32), np.zeros((count, 3), np.float32)
        for row, session in enumerate(sessions):
            own = np.random.default_rng([int(session), *b"fog session"])
            site = place(own)
            picture, depth[row] = view(site, random, size)
            clear[row] = _recorded(random, picture, 1.0, 0.004)
            air[row] = np.clip(own.uniform(0.72, 0.95) + own.normal(0, 0.015, 3), 0, 1)
            beta[row] = own.uniform(0.07, 0.18) * np.exp(-3.0 * random.random())
            shift = own.uniform(1, 3) * own.choice([-1, 1]) if parallax else 0.0
            foggy[row] = _fogged(
                random, picture, depth[row].astype(np.float64), float(beta[row]), air[row], shift
            )
        arrays: dict[str, Array | Ragged] = {
            "images": foggy,
            "clear": clear,
            "depth": depth,
            "beta": beta,
            "air": air,
            "sessions": sessions.astype(np.int64),
        }
        facts = {"sessions": [SESSIONS[split].start, SESSIONS[split].stop], "sky": SKY}
        return DataSet("fog", split, arrays, (), facts, VERSION)

    return kept("fog", settings, render) if count > 128 else render()


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """Clear, in fog, and the distance: near bright, far dark."""
    near = 255 / (1 + samples["depth"][row] / 15)
    return np.concatenate(
        [samples["clear"][row], samples["images"][row], near.astype(np.uint8)[..., None].repeat(3, axis=2)],
        axis=1,
    )


def _fogged(
    random: np.random.Generator, picture: Field, depth: Field, beta: float, air: Array, shift: float
) -> npt.NDArray[np.uint8]:
    size = len(depth)
    down, across = grid(size, size)
    if shift:
        moved = shift * _NEAREST / np.maximum(depth, _NEAREST)
        picture, depth = sample(picture, down, across + moved), sample(depth, down, across + moved)
    swaths = np.clip(1 + 0.45 * fractal(random, size, size, size / 2.5, 3), 0.3, 2)
    through = np.exp(-beta * swaths * depth)[..., None]
    foggy = picture * through + air * (1 - through)
    return _recorded(random, foggy, random.uniform(0.92, 1.08) if shift else 1.0, 0.010 if shift else 0.004)


def _recorded(
    random: np.random.Generator, picture: Field, exposure: float, noise: float
) -> npt.NDArray[np.uint8]:
    seen = picture * exposure + random.normal(0, noise, picture.shape)
    return np.round(255 * np.clip(seen, 0, 1)).astype(np.uint8)
