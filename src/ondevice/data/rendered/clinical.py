"""Public sets of the clinic in the form of `histology` and `xrays`: PatchCamelyon, class folders, CheXpert.

Knows their files. Knows nothing of where to get them: each has its own terms of use.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ondevice.data.pictures import picture_files, read_picture
from ondevice.data.sets import Array, DataSet, Ragged
from ondevice.errors import BadInput, MissingExtra

# The columns of CheXpert (Irvin et al. 2019), in its order; MIMIC-CXR's csv has the same.
_BEFORE = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")


def read_camelyon(folder: str | Path, split: str = "train", size: int = 96) -> DataSet:
    """Tissue patches: PatchCamelyon's h5 files, or a folder for each class (as BreakHis is handed around).

    folder: with camelyonpatch_level_2_split_SPLIT_x.h5 and _y.h5 (Veeling et al. 2018), or with folders of
    pictures, whose sorted names become the classes. split: train, valid or test, of the h5 files; class folders
    may lie in a folder of that name. size: of pictures from class folders. Gives images uint8 (n, size, size, 3)
    and labels int64 (n,). Raises BadInput naming the file that is missing, MissingExtra for h5 without h5py.
    """
    folder = Path(folder)
    name = f"camelyonpatch_level_2_split_{split}_{{}}.h5"
    if any(folder.glob("camelyonpatch_*.h5")):
        images, truth = _h5(folder / name.format("x"), "x"), _h5(folder / name.format("y"), "y")
        labels = truth.reshape(len(truth), -1)[:, 0].astype(np.int64)
        return DataSet("patchcamelyon", split, {"images": images, "labels": labels}, ("normal", "tumour"))
    root = folder / split if (folder / split).is_dir() else folder
    kinds = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(kinds) < 2:
        raise BadInput(
            f"{root} holds neither {name.format('x')} nor two folders of pictures, one for each class"
        )
    files = [(label, path) for label, kind in enumerate(kinds) for path in picture_files(kind)]
    arrays: dict[str, Array | Ragged] = {
        "images": np.stack([read_picture(path, size) for _, path in files]),
        "labels": np.array([label for label, _ in files], np.int64),
    }
    return DataSet(root.name, split, arrays, tuple(kind.name for kind in kinds))


def read_chexpert(table: str | Path, *, size: int = 96, uncertain: int = 0) -> DataSet:
    """Frontal radiographs of CheXpert or of a csv like it.

    table: train.csv or valid.csv, whose Path column leads to the pictures from the csv's folder or the one above.
    uncertain: what a finding marked -1 counts as, 0 or 1; blank is 0 (Irvin et al. 2019, U-Zeros and U-Ones).
    Gives images uint8 (n, size, size, 1), findings uint8 (n, findings), sex and old int64 (n,) (1: male, 1: 60
    years or more), labels int64 (n,). Raises BadInput naming the file or column that is missing.
    """
    table = Path(table)
    if uncertain not in (0, 1):
        raise BadInput(f"uncertain findings count as 0 or 1, not {uncertain}")
    if not table.is_file():
        raise BadInput(
            f"the label file {table} is missing; it comes with the pictures as train.csv or valid.csv"
        )
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    names = [column for column in columns if column not in _BEFORE]
    if "Path" not in columns or not names:
        raise BadInput(
            f"{table} needs a column Path, one column a finding, and at least one row; it has: {columns}"
        )
    rows = [row for row in rows if row.get("Frontal/Lateral", "Frontal") == "Frontal"]
    if not rows:
        raise BadInput(f"{table} has no frontal radiograph")
    findings = np.array([[_mark(table, row, name, uncertain) for name in names] for row in rows], np.uint8)
    arrays: dict[str, Array | Ragged] = {
        "images": np.stack([read_picture(_found(table, row["Path"]), size, grey=True) for row in rows]),
        "findings": findings,
        "labels": np.asarray(findings[:, [name != "No Finding" for name in names]].any(axis=1), np.int64),
        "sex": np.array([row.get("Sex", "") == "Male" for row in rows], np.int64),
        "old": np.array([float(row.get("Age") or 0) >= 60 for row in rows], np.int64),
    }
    return DataSet("chexpert", table.stem, arrays, tuple(names), {"sexes": ["female", "male"]})


def _mark(table: Path, row: dict[str, str], name: str, uncertain: int) -> int:
    text = (row[name] or "").strip()
    try:
        value = float(text) if text else 0.0
    except ValueError as error:
        raise BadInput(f"{table} marks {name} as {text!r}; it must be 1, 0, -1 or blank") from error
    if value not in (0.0, 1.0, -1.0):
        raise BadInput(f"{table} marks {name} as {text!r}; it must be 1, 0, -1 or blank")
    return uncertain if value < 0 else int(value)


def _found(table: Path, path: str) -> Path:
    """CheXpert's paths begin with the name of the folder that the csv lies in."""
    for root in (table.parent, table.parent.parent):
        if (root / path).is_file():
            return root / path
    inside = table.parent.joinpath(*Path(path).parts[1:])  # the folder was renamed
    if inside.is_file():
        return inside
    raise BadInput(f"{table} names {path}, which is neither beside it nor one folder up")


def _h5(path: Path, key: str) -> Array:
    if not path.is_file():
        raise BadInput(
            f"{path} is missing; PatchCamelyon has a file of pictures (x) and one of labels (y) a split"
        )
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "data", "to read PatchCamelyon") from error
    try:
        with h5py.File(path) as file:
            return np.asarray(file[key])
    except (OSError, KeyError) as error:
        raise BadInput(f"{path} is not an h5 file with {key!r} in it ({error})") from error
