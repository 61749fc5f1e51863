"""The reader of UCI-HAR on a tiny folder in its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.data.sensors.public import read_uci_har
from ondevice.errors import BadInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inner = tmp_path / "train" / "Inertial Signals"
    inner.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("total_acc_x", "total_acc_y", "total_acc_z", "body_gyro_x", "body_gyro_y", "body_gyro_z"):
        np.savetxt(inner / f"{name}_train.txt", random.standard_normal((3, 128)), fmt="%.7e")
    (tmp_path / "train/y_train.txt").write_text("5\n1\n6\n")
    (tmp_path / "train/subject_train.txt").write_text("1\n1\n3\n")
    return tmp_path


def test_reads_the_layout(folder: Path) -> None:
    samples = read_uci_har(folder)
    assert samples["series"].shape == (3, 128, 6)
    assert [samples.classes[label] for label in samples["labels"]] == ["standing", "walking", "lying"]
    assert samples["subjects"].tolist() == [1, 1, 3]
    expected = np.loadtxt(folder / "train/Inertial Signals/body_gyro_y_train.txt")
    np.testing.assert_allclose(samples["series"][..., 4], expected, rtol=1e-6)


def test_bad_input(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"total_acc_x_test\.txt is missing"):
        read_uci_har(folder, "test")
    (folder / "train/subject_train.txt").write_text("1\n1\n")
    with pytest.raises(BadInput, match=r"subject_train\.txt has 2 rows"):
        read_uci_har(folder)
    (folder / "train/y_train.txt").write_text("walk\n")
    with pytest.raises(BadInput, match="not a table of numbers"):
        read_uci_har(folder)
    (folder / "train/y_train.txt").unlink()
    with pytest.raises(BadInput, match=r"y_train\.txt is missing"):
        read_uci_har(folder)
