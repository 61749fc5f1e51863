"""Public sets of picture pairs in the form of `fog`, `raw` and `sr_patches`: RESIDE, STEREOFOG, DIV2K, See-in-the-Dark.

Knows their folders and names. Knows nothing of where to get them: each has its own terms of use.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from ondevice.data.pictures import picture_files, read_picture
from ondevice.data.rendered.sr_patches import smaller
from ondevice.data.sets import Array, DataSet, Ragged
from ondevice.errors import BadInput


def read_reside(folder: str | Path, size: int = 128) -> DataSet:
    """Hazy and clear pictures: RESIDE (Li et al. 2019) with hazy/ and clear/, or A/ (in fog) and B/ (clear) as
    STEREOFOG has them in each session.

    A hazy picture's name begins with its clear one's, up to an underscore: 0001_0.8_0.2.jpg belongs to 0001.png;
    where names are equal that comes first. size: the middle square is scaled to it.
    Gives images and clear uint8 (n, size, size, 3). Raises BadInput naming the picture that has no partner.
    """
    folder = Path(folder)
    pairs = [("hazy", "clear"), ("hazy", "gt"), ("A", "B")]
    found = [(folder / a, folder / b) for a, b in pairs if (folder / a).is_dir() and (folder / b).is_dir()]
    if not found:
        raise BadInput(f"{folder} needs the folders hazy and clear (RESIDE), or A and B (STEREOFOG)")
    hazy, clear = found[0]
    partners = {path.stem: path for path in picture_files(clear)}
    foggy = picture_files(hazy)
    chosen = []
    for path in foggy:
        partner = partners.get(path.stem) or partners.get(path.stem.split("_")[0])
        if partner is None:
            raise BadInput(
                f"{path.name} in {hazy} has no clear picture of that name in {clear}; add it or leave it out"
            )
        chosen.append(partner)
    arrays: dict[str, Array | Ragged] = {
        "images": np.stack([read_picture(path, size) for path in foggy]),
        "clear": np.stack([read_picture(path, size) for path in chosen]),
    }
    return DataSet("reside", folder.name, arrays)


def read_div2k(
    folder: str | Path,
    split: str = "train",
    *,
    size: int = 96,
    scale: int = 4,
    patches: int = 4,
    seed: int = 0,
) -> DataSet:
    """Patches of DIV2K (Agustsson and Timofte 2017) or of any folder of large pictures.

    folder: with DIV2K_SPLIT_HR (split train or valid), and DIV2K_SPLIT_LR_bicubic/X4 where it is there; or just
    pictures, which are then made smaller as `sr_patches` does. size: of a high patch; patches: from each picture,
    at places drawn by `seed`. Gives images uint8 (n, size, size, 3) and low uint8 (n, size / scale, ..., 3).
    Raises BadInput naming the picture that is too small or has no small version.
    """
    folder = Path(folder)
    if not 2 <= scale <= 8 or size % scale or patches < 1:
        raise BadInput(
            f"{patches} patches of {size} pixels at scale {scale}: the scale, 2 to 8, must divide the size"
        )
    high_folder = folder / f"DIV2K_{split}_HR"
    low_folder = folder / f"DIV2K_{split}_LR_bicubic" / f"X{scale}"
    high_folder = high_folder if high_folder.is_dir() else folder
    random = np.random.default_rng(seed)
    high, low = [], []
    for path in picture_files(high_folder):
        large = read_picture(path)
        rows, columns = large.shape[0] // scale, large.shape[1] // scale
        if min(rows, columns) < size // scale:
            raise BadInput(f"{path.name} is smaller than {size} pixels; use a smaller size or leave it out")
        if low_folder.is_dir():
            small = read_picture(_small(low_folder, path, scale))
        else:
            small = smaller(large[: rows * scale, : columns * scale], scale)
        if small.shape[:2] != (rows, columns):
            raise BadInput(
                f"the small version of {path.name} is {small.shape[:2]}, not {(rows, columns)} at scale {scale}"
            )
        for _ in range(patches):
            top, left = random.integers(0, [rows - size // scale + 1, columns - size // scale + 1])
            low.append(small[top : top + size // scale, left : left + size // scale])
            high.append(large[top * scale : top * scale + size, left * scale : left * scale + size])
    arrays: dict[str, Array | Ragged] = {"images": np.stack(high), "low": np.stack(low)}
    return DataSet("div2k", split, arrays, (), {"scale": scale, "kernel": "bicubic, antialiased"})


def read_sid(folder: str | Path, size: int = 96) -> DataSet:
    """Dark mosaics and pictures, as See-in-the-Dark (Chen et al. 2018) is converted to: no raw decoder is needed.

    folder: NAME.npy, the mosaic uint16 (height, width), beside NAME.json with "picture" (a file beside it, the long
    exposure), "black", "white", "ratio", "balance" (3 numbers) and "matrix" (3 x 3), as `raw` explains them; the
    pattern is RGGB. size: the middle of each, even. Gives what `raw` gives but for noise, cameras and places.
    Raises BadInput naming the file or the entry that is missing.
    """
    folder = Path(folder)
    tables = sorted(folder.glob("*.json"))
    if not tables or size < 2 or size % 2:
        raise BadInput(
            f"{folder} needs NAME.npy with NAME.json for each mosaic, and an even size, not {size}"
        )
    rows: list[dict[str, Array]] = []
    whites = set()
    for table in tables:
        try:
            facts = json.loads(table.read_text(encoding="utf-8"))
            mosaic = np.load(table.with_suffix(".npy"), allow_pickle=False)
            picture = read_picture(folder / facts["picture"])
            row = {
                name: np.array(facts[name], np.float32) for name in ("black", "balance", "matrix", "ratio")
            }
            whites.add(int(facts["white"]))
        except KeyError as error:
            raise BadInput(
                f"{table} has no entry {error}; it needs picture, black, white, ratio, balance, matrix"
            ) from error
        except (OSError, ValueError) as error:
            raise BadInput(f"{table} and what it names cannot be read: {error}") from error
        if mosaic.dtype != np.uint16 or mosaic.shape != picture.shape[:2] or min(mosaic.shape) < size:
            raise BadInput(
                f"{table.with_suffix('.npy').name} is {mosaic.dtype} {mosaic.shape}; it must be uint16, as large as "
                f"its picture {picture.shape[:2]}, and {size} pixels or more"
            )
        if row["balance"].shape != (3,) or row["matrix"].shape != (3, 3):
            raise BadInput(f"{table} needs three numbers in balance and three rows of three in matrix")
        top, left = ((side - size) // 4 * 2 for side in mosaic.shape)  # even: the pattern stays RGGB
        window = slice(top, top + size), slice(left, left + size)
        rows.append(row | {"mosaic": mosaic[window], "images": picture[window]})
    if len(whites) > 1:
        raise BadInput(f"the mosaics of {folder} differ in white: {sorted(whites)}; convert them to one")
    arrays: dict[str, Array | Ragged] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return DataSet("sid", folder.name, arrays, (), {"pattern": "RGGB", "white": whites.pop()})


def _small(folder: Path, path: Path, scale: int) -> Path:
    """DIV2K names the small version of 0001.png 0001x4.png."""
    pattern = re.compile(rf"{re.escape(path.stem)}(x{scale})?")
    for each in picture_files(folder):
        if pattern.fullmatch(each.stem):
            return each
    raise BadInput(f"{folder} has no small version of {path.name} ({path.stem}x{scale}{path.suffix})")
