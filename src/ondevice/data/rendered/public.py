"""Public picture sets on disk: what their readers share, and folders of classes.

Knows folders and picture files. Knows nothing of a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.data.sets import DataSet
from ondevice.errors import BadInput, MissingExtra

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
Picture = npt.NDArray[np.uint8]


def pictures_in(folder: Path) -> list[Path]:
    """All picture files below, in order. Raises BadInput where there is no folder or no picture."""
    if not folder.is_dir():
        raise BadInput(f"there is no folder {folder}; give the folder of the unpacked data set")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def read_picture(path: Path, *, size: tuple[int, int] | None = None, colours: bool = True) -> Picture:
    """uint8 (height, width, 3); (height, width) of raw numbers without colours (palettes are not applied).

    size: (height, width) to which it is scaled. Raises BadInput for a file that cannot be read.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to read pictures") from error
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB") if colours else opened.copy()
    except FileNotFoundError as error:
        raise BadInput(f"there is no {path}; the data set is not complete, unpack it again") from error
    except (UnidentifiedImageError, OSError) as error:
        raise BadInput(
            f"{path} is not a picture that can be read ({error}); remove it or unpack it again"
        ) from error
    if size is not None:
        picture = picture.resize(
            (size[1], size[0]), Image.Resampling.BILINEAR if colours else Image.Resampling.NEAREST
        )
    return np.asarray(picture, np.uint8)


def stacked(pictures: Sequence[Picture], folder: Path) -> Picture:
    """(n, height, width, 3). Raises BadInput where sizes differ."""
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        raise BadInput(f"the pictures of {folder} have {len(sizes)} sizes; scale them to one first")
    return np.stack(pictures)


def paired(folder: Path, layouts: Sequence[tuple[str, str, str, str]]) -> list[tuple[Path, Path]]:
    """Pictures and their label files (.png), by the first layout that is there.

    A layout: (folder of pictures, end of their names, folder of labels, end of theirs). Raises BadInput where no
    layout fits and where a label is missing.
    """
    for pictures, ending, labels, label_ending in layouts:
        if not (folder / pictures).is_dir():
            continue
        pairs = []
        for path in pictures_in(folder / pictures):
            if not path.stem.endswith(ending):
                continue
            inside = path.relative_to(folder / pictures).parent
            stem = path.stem.removesuffix(ending) if ending else path.stem
            label = folder / labels / inside / f"{stem}{label_ending}.png"
            if not label.exists():
                raise BadInput(
                    f"{path} has no label file {label}; unpack the labels too, or remove the picture"
                )
            pairs.append((path, label))
        if pairs:
            return pairs
    raise BadInput(
        f"{folder} has none of the folders {', '.join(layout[0] for layout in layouts)} with pictures"
    )


def read_image_folder(folder: str | Path, *, size: int = 48, classes: Sequence[str] = ()) -> DataSet:
    """A folder of class folders of pictures, as of ImageNet: folder/CLASS/*.jpg.

    Arrays: images uint8 (n, size, size, 3), scaled; labels int64. classes: the names in the order of their labels,
    for a test that has fewer; else the folders by name. Raises BadInput for pictures that lie in no class folder,
    unknown classes, empty ones and broken files.
    """
    folder = Path(folder)
    paths = pictures_in(folder)
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise BadInput(f"{loose[0]} lies in no class folder; move it to {folder / 'CLASS'}")
    names = tuple(classes) or tuple(sorted({path.relative_to(folder).parts[0] for path in paths}))
    unknown = {path.relative_to(folder).parts[0] for path in paths} - set(names)
    if unknown:
        raise BadInput(
            f"{folder} holds the classes {', '.join(sorted(unknown))} that `classes` does not name"
        )
    labels = np.array([names.index(path.relative_to(folder).parts[0]) for path in paths], np.int64)
    images = np.stack([read_picture(path, size=(size, size)) for path in paths])
    return DataSet(folder.name, "public", {"images": images, "labels": labels}, names)
