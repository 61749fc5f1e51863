from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ondevice.data.rendered.public import read_image_folder
from ondevice.errors import BadInput


def fill(folder: Path) -> None:
    for name, value in (("cat/a.png", 10), ("cat/deep/b.png", 20), ("dog/c.png", 200)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 6, 3), value, np.uint8)).save(folder / name)


def test_class_folders_become_labels(tmp_path: Path) -> None:
    fill(tmp_path)
    read = read_image_folder(tmp_path, size=4)
    assert read.classes == ("cat", "dog")
    assert read["labels"].tolist() == [0, 0, 1]
    assert read["images"].shape == (3, 4, 4, 3)
    assert read["images"][:, 0, 0, 0].tolist() == [10, 20, 200]
    assert read_image_folder(tmp_path, classes=("dog", "cat"))["labels"].tolist() == [1, 1, 0]


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no pictures"):
        read_image_folder(tmp_path)
    fill(tmp_path)
    with pytest.raises(BadInput, match="the classes dog"):
        read_image_folder(tmp_path, classes=("cat",))
    (tmp_path / "dog" / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(BadInput, match=r"broken\.png is not a picture"):
        read_image_folder(tmp_path)
    (tmp_path / "dog" / "broken.png").rename(tmp_path / "loose.png")
    with pytest.raises(BadInput, match="lies in no class folder"):
        read_image_folder(tmp_path)
