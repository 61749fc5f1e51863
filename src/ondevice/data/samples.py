"""Real data that scikit-learn and scikit-image bring along: nothing is downloaded.

Knows which of their sets ship inside the packages. Knows nothing of models. Tables and digits are split by a hash
of each row, so that equal rows stay on one side; photographs by photograph; textures and faces by halves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.data.sensors import plotted
from ondevice.data.sets import Array, DataSet, Ragged, generator
from ondevice.errors import BadInput, MissingExtra

VERSION = "1"
_TABLES = {
    "digits": "load_digits", "breast-cancer": "load_breast_cancer", "wine": "load_wine", "iris": "load_iris",
    "diabetes": "load_diabetes",
}  # fmt: skip
# All of them in the wheels of scikit-image (BSD; the pictures are in the public domain or CC0, by its README) and of
# scikit-learn (china, flower: CC BY); other pictures of skimage.data are downloaded when asked for, these are not.
PHOTOGRAPHS = {
    "train": ("astronaut", "chelsea", "rocket", "hubble_deep_field", "immunohistochemistry", "china.jpg"),
    "test": ("coffee", "retina", "flower.jpg"),
}
TEXTURES = ("brick", "grass", "gravel")
NAMES = (*_TABLES, "faces", "textures", "photographs")


def make(
    split: str, count: int | None = None, *, seed: int = 0, name: str = "digits", size: int = 64
) -> DataSet:
    """Rows of one of `NAMES` in an order drawn by `seed`; all of them where no count is given.

    digits: images uint8 (n, 8, 8, 1), labels. breast-cancer, wine, iris: features float64 (n, d), labels. diabetes:
    features, targets float64 (n,). faces: images uint8 (n, 25, 25, 1), labels 1 for a face. textures, photographs:
    images uint8 (n, size, size, 1 or 3), windows at drawn places, labels. size is theirs alone.
    Raises BadInput for another name or more rows than there are, MissingExtra without the package.
    """
    if name not in NAMES:
        raise BadInput(f"no samples {name!r}; there are: {', '.join(NAMES)}")
    random = generator(f"samples {name}", split, seed)
    if count is not None and count < 1:
        raise BadInput(f"a set of {count} rows is empty; give 1 or more, or none for all")
    facts: dict[str, Any] = {"source": "scikit-learn" if name in _TABLES else "scikit-image"}
    if name in ("textures", "photographs"):
        arrays, classes = (_textures if name == "textures" else _photographs)(
            random, split, count or 128, size
        )
        return DataSet(f"samples-{name}", split, arrays, classes, facts, VERSION)
    everything, classes, mine = _faces(split) if name == "faces" else _table(name, split)
    facts["features"] = list(everything.pop("names", ()))
    if count is not None and count > len(mine):
        raise BadInput(
            f"{name} has {len(mine)} rows in its {split} split, not {count}; ask for fewer, or for all"
        )
    rows = random.permutation(mine)[:count]
    return DataSet(
        f"samples-{name}",
        split,
        {key: array[rows] for key, array in everything.items()},
        classes,
        facts,
        VERSION,
    )


def draw(samples: DataSet, row: int) -> npt.NDArray[np.uint8]:
    """The picture, or a row of a table as a curve over its features."""
    if "images" not in samples.arrays:
        return plotted(samples["features"][row][:, None])
    picture = np.asarray(samples["images"][row], np.uint8)
    return picture.repeat(3, axis=2) if picture.shape[2] == 1 else picture


def _table(name: str, split: str) -> tuple[dict[str, Any], tuple[str, ...], npt.NDArray[np.int64]]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("scikit-learn", "data", f"for the samples {name}") from error
    found = getattr(datasets, _TABLES[name])()
    arrays: dict[str, Any] = {}
    classes: tuple[str, ...] = ()
    if name == "digits":
        arrays["images"] = np.round(found.images * 255 / 16).astype(np.uint8)[..., None]
    else:
        arrays["features"] = np.asarray(found.data, np.float64)
        arrays["names"] = [str(each) for each in found.feature_names]
    if name == "diabetes":
        arrays["targets"] = np.asarray(found.target, np.float64)
    else:
        arrays["labels"] = np.asarray(found.target, np.int64)
        classes = tuple(str(each) for each in found.target_names)
    shares = [hashlib.sha256(line.tobytes()).digest()[0] for line in np.asarray(found.data, np.float64)]
    train = np.array(shares) < 179  # of 256: seven tenths
    return arrays, classes, np.flatnonzero(train if split == "train" else ~train)


def _faces(split: str) -> tuple[dict[str, Any], tuple[str, ...], npt.NDArray[np.int64]]:
    """A hundred faces of Labeled Faces in the Wild and a hundred patches without one."""
    images = np.round(_skimage("lfw_subset") * 255).astype(np.uint8)[..., None]
    labels = (np.arange(len(images)) < len(images) // 2).astype(np.int64)
    train = np.arange(len(images)) % 100 < 70
    rows = np.flatnonzero(train if split == "train" else ~train)
    return {"images": images, "labels": labels}, ("no face", "face"), rows


def _textures(
    random: np.random.Generator, split: str, count: int, size: int
) -> tuple[dict[str, Array | Ragged], tuple[str, ...]]:
    """Windows of the left half of each texture for training, of the right half for the test."""
    halves = []
    for name in TEXTURES:
        whole = np.asarray(_skimage(name), np.uint8)[..., None]
        middle = whole.shape[1] // 2
        halves.append(whole[:, :middle] if split == "train" else whole[:, middle:])
    return _windows(random, halves, count, size), TEXTURES


def _photographs(
    random: np.random.Generator, split: str, count: int, size: int
) -> tuple[dict[str, Array | Ragged], tuple[str, ...]]:
    names = PHOTOGRAPHS[split]
    whole = [
        np.asarray(_sklearn_photograph(n) if n.endswith(".jpg") else _skimage(n), np.uint8) for n in names
    ]
    return _windows(random, whole, count, size), tuple(name.removesuffix(".jpg") for name in names)


def _windows(
    random: np.random.Generator, pictures: list[npt.NDArray[np.uint8]], count: int, size: int
) -> dict[str, Array | Ragged]:
    least = min(min(picture.shape[:2]) for picture in pictures)
    if not 8 <= size <= least:
        raise BadInput(f"windows of {size} pixels do not fit; use 8 to {least}")
    labels = np.arange(count) % len(pictures)
    images = []
    for label in labels:
        top, left = random.integers(0, np.array(pictures[label].shape[:2]) - size + 1)
        images.append(pictures[label][top : top + size, left : left + size])
    return {"images": np.stack(images), "labels": labels.astype(np.int64)}


def _skimage(name: str) -> Any:
    try:
        from skimage import data
    except ImportError as error:
        raise MissingExtra("scikit-image", "data", f"for the samples {name}") from error
    load: Callable[[], Any] = getattr(data, name)
    return load()


def _sklearn_photograph(name: str) -> Any:
    try:
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise MissingExtra("scikit-learn", "data", f"for the photograph {name}") from error
    return load_sample_image(name)
