"""Readers of public clinical sets, on tiny folders in their layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.data.rendered.clinical import read_camelyon, read_chexpert
from ondevice.errors import BadInput

Image = pytest.importorskip("PIL.Image")


def save(path: Path, seed: int, grey: bool = False) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (40, 48) if grey else (40, 48, 3)
    picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def test_class_folders(tmp_path: Path) -> None:
    for seed, name in enumerate(
        ("benign/SOB_B_A-14-1.png", "benign/SOB_B_A-14-2.png", "malignant/SOB_M_DC-14-1.png")
    ):
        save(tmp_path / name, seed)
    samples = read_camelyon(tmp_path, size=32)
    assert samples.classes == ("benign", "malignant")
    assert samples["labels"].tolist() == [0, 0, 1]
    assert samples["images"].shape == (3, 32, 32, 3)


def test_patchcamelyon(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pictures = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_valid_x.h5", "w") as file:
        file["x"] = pictures
    with pytest.raises(BadInput, match=r"split_valid_y\.h5 is missing"):
        read_camelyon(tmp_path, "valid")
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = np.array([0, 1, 1, 0]).reshape(4, 1, 1, 1)
    samples = read_camelyon(tmp_path, "valid")
    np.testing.assert_array_equal(samples["images"], pictures)
    assert samples["labels"].tolist() == [0, 1, 1, 0]
    with pytest.raises(BadInput, match=r"split_train_x\.h5 is missing"):
        read_camelyon(tmp_path)
    (tmp_path / "camelyonpatch_level_2_split_valid_y.h5").write_bytes(b"no h5")
    with pytest.raises(BadInput, match="not an h5 file"):
        read_camelyon(tmp_path, "valid")


def test_a_folder_with_neither(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="one for each class"):
        read_camelyon(tmp_path)
    with pytest.raises(BadInput, match="one for each class"):
        read_camelyon(tmp_path / "gone")


HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Pleural Effusion\n"


def test_chexpert(tmp_path: Path) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    first = save(root / "train/patient00001/study1/view1_frontal.jpg", 0, grey=True)
    save(root / "train/patient00002/study1/view1_frontal.jpg", 1, grey=True)
    (root / "train.csv").write_text(
        HEADER
        + "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,\n"
        + "CheXpert-v1.0-small/train/patient00001/study1/view2_lateral.jpg,Female,68,Lateral,,1.0,,\n"
        + "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Male,31,Frontal,PA,,1.0,-1.0\n"
    )
    samples = read_chexpert(root / "train.csv", size=40)
    assert samples.classes == ("No Finding", "Cardiomegaly", "Pleural Effusion")
    assert samples["findings"].tolist() == [[1, 0, 0], [0, 1, 0]]
    assert samples["labels"].tolist() == [0, 1]
    assert samples["sex"].tolist() == [0, 1]
    assert samples["old"].tolist() == [1, 0]
    assert samples["images"].shape == (2, 40, 40, 1)
    assert abs(samples["images"][0].mean() - first.mean()) < 6
    assert read_chexpert(root / "train.csv", uncertain=1)["findings"].tolist() == [[1, 0, 0], [0, 1, 1]]
    root.rename(tmp_path / "renamed")
    assert len(read_chexpert(tmp_path / "renamed/train.csv")) == 2


def test_chexpert_bad_input(tmp_path: Path) -> None:
    table = tmp_path / "train.csv"
    with pytest.raises(BadInput, match=r"label file .*train\.csv is missing"):
        read_chexpert(table)
    table.write_text("Name,Age\nx,3\n")
    with pytest.raises(BadInput, match="column Path"):
        read_chexpert(table)
    table.write_text(HEADER + "a/b.jpg,Male,40,Frontal,PA,maybe,,\n")
    with pytest.raises(BadInput, match="'maybe'"):
        read_chexpert(table)
    table.write_text(HEADER + "a/b.jpg,Male,40,Frontal,PA,1,,\n")
    with pytest.raises(BadInput, match=r"a/b\.jpg"):
        read_chexpert(table)
    table.write_text(HEADER + "a/b.jpg,Male,40,Lateral,,1,,\n")
    with pytest.raises(BadInput, match="no frontal"):
        read_chexpert(table)
    with pytest.raises(BadInput, match="0 or 1"):
        read_chexpert(table, uncertain=2)
