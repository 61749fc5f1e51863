"""Stained tissue of the breast under the microscope: eight kinds of growth, four benign and four malignant.

Knows tissue architecture, stains and patients. Knows nothing of models. A pixel is a micrometre.

What tells the kinds apart is architecture, as for a pathologist: rings of cells round a lumen (adenosis, tubular
adenoma), slits pressed by stroma (fibroadenoma), leaves of crowded stroma (phyllodes), irregular solid nests
with holes (ductal), single files (lobular), islands in mucin (mucinous), fronds (papillary). Size, darkness and
number of nuclei overlap; stain, scanner, focus and the patient's own manner vary across all kinds.
Train and test differ in patients (numbers in facts["patients"]), each with a diagnosis, a stain and a manner.

Measured by benchmarks/controls.py (1,536 train, 480 test, 96 pixels, 8 classes): a linear head on the frozen random
features of a small CNN (4 stages, 16 to 96 channels) 56.7 %, on the picture at 10 by 10 pixels 34.0 %; the same CNN
after 30 epochs 98.1 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.data.rendered.canvas import blur
from ondevice.data.rendered.fields import Field, fractal, grid, smooth, step
from ondevice.data.sets import Array, DataSet, Ragged, generator, kept
from ondevice.errors import BadInput

VERSION = "1"
CLASSES = (
    "adenosis",
    "fibroadenoma",
    "tubular adenoma",
    "phyllodes tumour",
    "ductal carcinoma",
    "lobular carcinoma",
    "mucinous carcinoma",
    "papillary carcinoma",
)
PARTS = ("lumen", "epithelium", "stroma", "mucin", "nuclei")
PATIENTS = {"train": range(48), "test": range(48, 72)}  # patient p has diagnosis p % 8
_LUMEN, _EPITHELIUM, _STROMA, _MUCIN = range(4)
# Optical density of red, green, blue for haematoxylin and eosin (Macenko et al. 2009), before variation.
_STAINS = np.array([[0.56, 0.72, 0.41], [0.22, 0.80, 0.56]])


@dataclass(frozen=True)
class _Patient:
    """scale: of all structures. nuclei: their size. pleomorphism: how much they differ. stains: (2, 3). amounts:
    of both stains. white: what no stain leaves of the light."""

    scale: float
    nuclei: float
    pleomorphism: float
    stains: Field
    amounts: Field
    white: Field
    cellular: float


@dataclass
class _Tissue:
    """depth: signed distance into a structure, pixels. thickness: of its epithelium. outer, inner: what is
    outside and within. crowding: nuclei of the epithelium, 0..1. stromal: nuclei of the stroma, 0..1."""

    depth: Field
    thickness: float = 8.0
    outer: int = _STROMA
    inner: int = _LUMEN
    nuclei: float = 3.4
    spread: float = 0.12
    crowding: float = 1.0
    stromal: float = 0.25
    layers: bool = True
    holes: Field | None = None
    collagen: float = 1.0


def make(split: str, count: int, *, seed: int = 0, size: int = 96) -> DataSet:
    """Patches of stained tissue.

    images uint8 (n, size, size, 3); labels int64 (n,), of eight `classes`; tumour int64 (n,), 1 where malignant;
    patients int64 (n,); masks uint8 (n, size, size), of facts["parts"]. Patients are dealt evenly.
    Raises BadInput for another split, no patches and a size below 48.
    """
    if count < 1 or size < 48:
        raise BadInput(f"{count} patches of {size} pixels: give 1 or more, of 48 pixels or more")
    settings = {"split": split, "count": count, "seed": seed, "size": size, "version": VERSION}
    random = generator("histology", split, seed)  # refuses another split before the cache is asked

    def render() -> DataSet:
        patients = np.array(PATIENTS[split])[np.arange(count) % len(PATIENTS[split])]
        images = np.zeros((count, size, size, 3), np.uint8)
        masks = np.zeros((count, size, size), np.uint8)
        for row, patient in enumerate(patients):
            images[row], masks[row] = _patch(random, int(patient), size)
        labels = (patients % len(CLASSES)).astype(np.int64)
        arrays: dict[str, Array | Ragged] = {
            "images": images,
            "labels": labels,
            "tumour": (labels >= 4).astype(np.int64),
            "patients": patients.astype(np.int64),
            "masks": masks,
        }
        facts = {"parts": list(PARTS), "patients": [PATIENTS[split].start, PATIENTS[split].stop]}
        return DataSet("histology", split, arrays, CLASSES, facts, VERSION)

    return kept("histology", settings, render) if count > 256 else render()


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The patch; a red frame where it is malignant, a green one where it is benign."""
    picture = samples["images"][row]
    frame = (190, 40, 40) if samples["labels"][row] >= 4 else (40, 150, 60)
    drawn = np.full((picture.shape[0] + 4, picture.shape[1] + 4, 3), frame, np.uint8)
    drawn[2:-2, 2:-2] = picture
    return drawn


def _patient(number: int) -> _Patient:
    random = np.random.default_rng([number, *b"histology patient"])
    stains = _STAINS + random.normal(0, 1, (2, 3)) * np.array([[0.06, 0.05, 0.06], [0.05, 0.06, 0.06]])
    stains = np.clip(stains, 0.01, None)
    return _Patient(
        scale=random.uniform(0.82, 1.2),
        nuclei=random.uniform(0.85, 1.18),
        pleomorphism=random.uniform(0.6, 1.5),
        stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
        amounts=random.uniform((0.75, 0.6), (1.3, 1.3)),
        white=np.clip(random.normal((0.95, 0.94, 0.95), 0.02), 0.85, 1.0),
        cellular=random.uniform(0.6, 1.4),
    )


def _patch(
    random: np.random.Generator, number: int, size: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A picture and its mask. Drawn larger by a margin, so that structures run out of the picture."""
    patient, margin = _patient(number), 10
    side = size + 2 * margin
    tissue = _KINDS[number % len(CLASSES)](random, side, patient.scale)
    parts, shares = _regions(tissue)
    places = _places(random, tissue, patient, parts)
    haematoxylin, eosin = _stained(random, tissue, shares)
    ink, cover = _nuclei(random, places, side)
    haematoxylin = np.maximum(haematoxylin, ink)
    eosin = eosin * (1 - 0.55 * cover)
    density = (haematoxylin * patient.amounts[0])[..., None] * patient.stains[0]
    density = density + (eosin * patient.amounts[1])[..., None] * patient.stains[1]
    density *= 1 + 0.08 * smooth(random, side, side, 60)[..., None]  # the section is not equally thick
    light = patient.white * 10**-density
    light = blur(light, random.uniform(0.35, 0.75)) + random.normal(0, 0.012, light.shape)
    parts = np.where(cover > 0.5, len(PARTS) - 1, parts).astype(np.uint8)
    turn = int(random.integers(0, 4))
    picture = np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)
    inside = slice(margin, margin + size)
    return np.rot90(picture[inside, inside], turn), np.rot90(parts[inside, inside], turn)


def _regions(tissue: _Tissue) -> tuple[npt.NDArray[np.int64], list[Field]]:
    """The part at each pixel, and each part's share of it."""
    outside = 1 - step(tissue.depth, 1.5)
    within = step(tissue.depth - tissue.thickness, 1.5)
    shares = [np.zeros_like(tissue.depth) for _ in range(4)]
    shares[tissue.outer] += outside
    shares[tissue.inner] += within
    shares[_EPITHELIUM] += 1 - outside - within
    if tissue.holes is not None:
        hole = step(tissue.holes, 1.5) * step(tissue.depth - 6)
        shares = [share * (1 - hole) for share in shares]
        shares[_LUMEN] += hole
    return np.argmax(shares, axis=0), shares


def _stained(random: np.random.Generator, tissue: _Tissue, shares: list[Field]) -> tuple[Field, Field]:
    """Haematoxylin and eosin without the nuclei."""
    side = len(tissue.depth)
    lumen, epithelium, stroma, mucin = shares
    # collagen runs in wavy bundles: noise that is far longer along a direction than across
    angle = random.uniform(0, np.pi)
    down, across = grid(side, side)
    along = down * np.sin(angle) + across * np.cos(angle) + 7 * smooth(random, side, side, 26)
    waves = np.sin(2 * np.pi * along / random.uniform(6, 9) + 2.2 * smooth(random, side, side, 10))
    fine = fractal(random, side, side, 6, 3)
    bundles = np.clip(0.5 + 0.32 * waves * (0.6 + 0.5 * smooth(random, side, side, 15)) + 0.13 * fine, 0, 1)
    eosin = stroma * (0.20 + 0.26 * tissue.collagen * bundles + 0.03 * fine)
    eosin += epithelium * (0.30 + 0.05 * fine) + mucin * (0.05 + 0.02 * fine)
    haematoxylin = epithelium * (0.17 + 0.04 * fine) + stroma * 0.05
    haematoxylin += mucin * (0.10 + 0.05 * np.sin(along / 2.5) + 0.03 * fine)
    return np.clip(haematoxylin, 0, None), np.clip(eosin + 0.01 * lumen, 0, None)


def _places(
    random: np.random.Generator, tissue: _Tissue, patient: _Patient, parts: npt.NDArray[np.int64]
) -> Field:
    """Nuclei that do not overlap much, (n, 6): down, across, long and short radius, angle, darkness."""
    side = len(tissue.depth)
    slope = np.gradient(blur(tissue.depth, 1.5))
    radius = tissue.nuclei * patient.nuclei
    spread = tissue.spread * patient.pleomorphism
    tries = int(side * side / 5)
    spots = random.uniform(0, side, (tries, 2))
    luck = random.random(tries)
    sizes = radius * np.exp(spread * random.standard_normal(tries))
    turns, dark = random.normal(0, 0.35, tries), random.uniform(0.75, 1.15, tries)
    rounds = random.uniform(1.05, 1.05 + 2.5 * spread + 0.25, tries)
    rows: list[tuple[float, ...]] = []
    taken = np.zeros((tries, 3))
    for k in range(tries):
        y, x = spots[k]
        pixel = int(y), int(x)
        part = parts[pixel]
        if part == _EPITHELIUM:
            # in one layer nuclei keep to the base
            base = abs(tissue.depth[pixel] - radius * 1.25) < radius * 0.5 or not tissue.layers
            wanted, r, stretch, reach = tissue.crowding * base, sizes[k], rounds[k], 1.72
            angle = np.arctan2(slope[0][pixel], slope[1][pixel]) + turns[k]
        elif part == _STROMA:
            wanted, r, stretch, reach = 0.06 * tissue.stromal * patient.cellular, sizes[k] * 0.68, 2.6, 2.3
            angle = np.arctan2(slope[0][pixel], slope[1][pixel]) + np.pi / 2 + 1.3 * turns[k]
        else:
            continue
        if luck[k] > wanted:
            continue
        done = taken[: len(rows)]
        if len(rows) and (np.hypot(done[:, 0] - y, done[:, 1] - x) < reach / 2 * (done[:, 2] + r)).any():
            continue
        taken[len(rows)] = y, x, r
        rows.append((y, x, r * np.sqrt(stretch), r / np.sqrt(stretch), angle, dark[k]))
    return np.array(rows).reshape(-1, 6)


def _nuclei(random: np.random.Generator, places: Field, side: int) -> tuple[Field, Field]:
    """Haematoxylin of the nuclei, and how much of each pixel they cover."""
    reach = 14
    ink, cover = np.zeros((side + 2 * reach,) * 2), np.zeros((side + 2 * reach,) * 2)
    chromatin = smooth(random, side + 2 * reach, side + 2 * reach, 2.0)
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    for y, x, long, short, angle, dark in places:
        top, left = int(y), int(x)
        v, u = down + 0.5 - (y - top), across + 0.5 - (x - left)
        along = u * np.cos(angle) + v * np.sin(angle)
        side_on = -u * np.sin(angle) + v * np.cos(angle)
        away = np.sqrt((along / long) ** 2 + (side_on / short) ** 2)
        inside = np.clip((1 - away) * short + 0.5, 0, 1)
        # a membrane, chromatin clumped inside, pale between
        rim = np.exp(-(((away - 0.85) / 0.22) ** 2))
        window = slice(top, top + 2 * reach + 1), slice(left, left + 2 * reach + 1)
        tone = dark * (0.62 + 0.22 * rim + 0.13 * chromatin[window])
        ink[window] = np.maximum(ink[window], inside * np.clip(tone, 0.25, 1.2))
        cover[window] = np.maximum(cover[window], inside)
    inner = slice(reach, reach + side)
    return ink[inner, inner], cover[inner, inner]


def _glands(random: np.random.Generator, side: int, spots: Field, radii: Field, wobble: float) -> Field:
    """Depth into the nearest of some round structures with wavy outlines."""
    down, across = grid(side, side)
    depth = np.full((side, side), -40.0)
    for (y, x), radius in zip(spots, radii):
        reach = 2 * radius + 8
        rows = slice(max(0, int(y - reach)), max(0, int(y + reach)))
        columns = slice(max(0, int(x - reach)), max(0, int(x + reach)))
        v, u = down[rows, columns] - y, across[rows, columns] - x
        angle = np.arctan2(v, u)
        stretch, lean = random.uniform(0.8, 1.0), random.uniform(0, np.pi)
        away = np.hypot(v, u) * (1 + (1 - stretch) * np.cos(2 * (angle - lean)))
        edge = np.full_like(angle, radius)
        for k in (2, 3, 4, 5):
            edge += radius * wobble / k * random.normal() * np.cos(k * angle + random.uniform(0, 2 * np.pi))
        depth[rows, columns] = np.maximum(depth[rows, columns], edge - away)
    return depth


def _scattered(random: np.random.Generator, side: int, gap: float, jitter: float = 0.22) -> Field:
    """Spots on a shifted hexagonal lattice, moved about, (n, 2)."""
    rows = np.arange(-gap, side + gap, gap * 0.87)
    spots = [
        (y, x + (gap / 2 if k % 2 else 0))
        for k, y in enumerate(rows)
        for x in np.arange(-gap, side + gap, gap)
    ]
    return (
        np.array(spots)
        + random.uniform(-gap / 2, gap / 2, 2)
        + random.normal(0, jitter * gap / 2, (len(spots), 2))
    )


def _level(field: Field) -> Field:
    """About the distance in pixels from where a field is 0, with the field's sign."""
    slope = np.hypot(*np.gradient(field))
    return np.asarray(field / np.maximum(slope, 0.35 * slope.mean()))


def _adenosis(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    spots = _scattered(random, side, 27 * scale)
    spots = spots[random.random(len(spots)) < 0.86]
    radii = scale * random.uniform(8.5, 13.5, len(spots))
    return _Tissue(_glands(random, side, spots, radii, 0.16), 8.0, stromal=0.45)


def _fibroadenoma(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    distance = np.abs(_level(smooth(random, side, side, 46 * scale)))
    return _Tissue(random.uniform(9.0, 10.5) - distance, 8.0, stromal=0.55, collagen=0.8)


def _tubular(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    spots = _scattered(random, side, 38 * scale, 0.12)
    radii = scale * random.uniform(16, 19.5, len(spots))
    return _Tissue(_glands(random, side, spots, radii, 0.06), 8.0, stromal=0.4)


def _phyllodes(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    distance = np.abs(_level(smooth(random, side, side, 36 * scale)))
    return _Tissue(random.uniform(11, 16) - distance, 7.5, stromal=3.2, collagen=0.7)


def _ductal(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    field = _level(fractal(random, side, side, 34 * scale, 3) - 0.1)
    holes = _glands(
        random, side, _scattered(random, side, 26 * scale), scale * random.uniform(1.0, 5.5, 200), 0.15
    )
    return _Tissue(field, 1e3, nuclei=3.9, spread=0.22, layers=False, holes=holes, crowding=0.9, stromal=0.6)


def _lobular(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    lines = np.cos(2 * np.pi * _lane(random, side, 17 * scale))
    broken = smooth(random, side, side, 20)
    depth = _level(lines - 0.72) - 3.0 * np.clip(-broken - 0.2, 0, 2)
    return _Tissue(
        np.clip(depth, -1e3, 4.2), 1e3, nuclei=3.2, spread=0.13, layers=False, stromal=0.5, collagen=1.2
    )


def _mucinous(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    spots = _scattered(random, side, 40 * scale, 0.5)
    spots = spots[random.random(len(spots)) < 0.8]
    radii = scale * random.uniform(7, 15, len(spots))
    return _Tissue(
        _glands(random, side, spots, radii, 0.25), 1e3, outer=_MUCIN, nuclei=3.5, spread=0.15, layers=False
    )


def _papillary(random: np.random.Generator, side: int, scale: float) -> _Tissue:
    field = _level(
        np.cos(2 * np.pi * _lane(random, side, 36 * scale, 0.6)) + 0.3 * smooth(random, side, side, 15)
    )
    return _Tissue(field + 4.0, 12.5, outer=_LUMEN, inner=_STROMA, nuclei=3.5, spread=0.16, layers=False)


def _lane(random: np.random.Generator, side: int, gap: float, wander: float = 0.3) -> Field:
    """Wavy parallel lanes `gap` pixels apart: whole numbers in their middles."""
    down, across = grid(side, side)
    angle = random.uniform(0, np.pi)
    line = (
        down * np.sin(angle) + across * np.cos(angle) + wander * gap * smooth(random, side, side, 1.4 * gap)
    )
    return np.asarray(line / gap + random.random())


_KINDS: tuple[Callable[[np.random.Generator, int, float], _Tissue], ...] = (
    _adenosis,
    _fibroadenoma,
    _tubular,
    _phyllodes,
    _ductal,
    _lobular,
    _mucinous,
    _papillary,
)
