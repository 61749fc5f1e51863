"""data: the sets that the project makes, and a sheet on which a person can look at one."""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ondevice.data import catalog
from ondevice.errors import BadInput, MissingExtra, NotBuilt

if TYPE_CHECKING:
    from ondevice.data.sets import DataSet

_SIDE, _GAP = 224, 6  # pixels of the longer side of a sample on a sheet


@dataclass(frozen=True)
class Shown:
    """A sheet that was drawn. files: the sheet, and sound files beside it. fingerprint: of the samples on it."""

    name: str
    files: list[Path]
    fingerprint: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"files": [str(file) for file in self.files]}


def data() -> list[tuple[catalog.Entry, bool]]:
    """Every data set, and whether it is built."""
    return [(entry, _built(entry)) for entry in catalog.ENTRIES.values()]


def show(
    name: str, out: str | Path, *, split: str = "train", count: int = 24, columns: int = 6, seed: int = 0
) -> Shown:
    """Draw samples of a set on one sheet; of sounds, the first few beside it as WAV files.

    Raises BadInput for an unknown set, NotBuilt for one that is not there yet.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "data", "to draw a sheet") from error
    out = Path(out)
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise BadInput(f"{out} is not the name of a picture; let it end in .png, .jpg or .webp")
    if count < 1 or columns < 1:
        raise BadInput(f"a sheet of {count} samples in {columns} columns is empty; give 1 or more of each")
    maker: Any = catalog.find(name).maker()
    samples: DataSet = maker.make(split, count, seed=seed)
    cells = [_cell(maker.draw(samples, row)) for row in range(min(count, len(samples)))]
    height, width = (max(cell.shape[axis] for cell in cells) + _GAP for axis in (0, 1))
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * height + _GAP, min(columns, len(cells)) * width + _GAP, 3), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = _GAP + index // columns * height, _GAP + index % columns * width
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(out)
    files = [out]
    listen: Callable[..., Any] | None = getattr(maker, "listen", None)
    if listen is not None:
        for row in range(min(3, len(samples))):
            files.append(out.with_name(f"{out.stem}-{row}.wav"))
            _write_wave(files[-1], *listen(samples, row))
    return Shown(name, files, samples.fingerprint())


def _built(entry: catalog.Entry) -> bool:
    try:
        entry.maker()
    except NotBuilt:
        return False
    except MissingExtra:
        return True
    return True


def _cell(picture: Any) -> Any:
    """A picture about _SIDE pixels large: small ones are enlarged in whole steps, so that pixels stay square."""
    from PIL import Image

    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadInput(f"draw gave {picture.dtype} {picture.shape}, a sheet needs uint8 (height, width, 3)")
    longer = max(picture.shape[:2])
    if longer <= _SIDE // 2:
        return picture.repeat(_SIDE // longer, axis=0).repeat(_SIDE // longer, axis=1)
    if longer > 2 * _SIDE:
        size = (round(picture.shape[1] * _SIDE * 2 / longer), round(picture.shape[0] * _SIDE * 2 / longer))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    return picture


def _write_wave(path: Path, samples: Any, rate: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
