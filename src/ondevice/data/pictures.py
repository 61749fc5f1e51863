"""Pictures from files and folders, as arrays.

Knows PNG, JPEG and what else Pillow opens. Knows nothing of any data set's layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def picture_files(folder: Path) -> list[Path]:
    """The pictures right in a folder, by name. Raises BadInput where it is missing or holds none."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the one that holds the pictures")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"{folder} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def read_picture(path: Path, size: int | None = None, *, grey: bool = False) -> npt.NDArray[np.uint8]:
    """A picture, uint8 (height, width, 3), or (height, width, 1) if grey.

    size: scale it until its shorter side has so many pixels, and cut the middle square out.
    Raises BadInput for a file that is missing or cannot be read, MissingExtra without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to read pictures") from error
    try:
        with Image.open(path) as file:
            picture = file.convert("L" if grey else "RGB")
    except FileNotFoundError as error:
        raise BadInput(f"the picture {path} is missing") from error
    except OSError as error:
        raise BadInput(f"{path} is not a picture that can be read ({error})") from error
    if size is not None:
        wide, high = picture.size
        scale = size / min(wide, high)
        wide, high = max(size, round(wide * scale)), max(size, round(high * scale))
        picture = picture.resize((wide, high), Image.Resampling.LANCZOS)
        left, top = (wide - size) // 2, (high - size) // 2
        picture = picture.crop((left, top, left + size, top + size))
    array = np.asarray(picture, np.uint8)
    return array[..., None] if grey else array
