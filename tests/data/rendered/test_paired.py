"""Readers of public pairs of pictures, on tiny folders in their layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ondevice.data.rendered import raw
from ondevice.data.rendered.paired import read_div2k, read_reside, read_sid
from ondevice.data.rendered.sr_patches import smaller
from ondevice.errors import BadInput

Image = pytest.importorskip("PIL.Image")


def save(path: Path, seed: int, height: int = 64, width: int = 80) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(picture).save(path)
    return picture


def test_reside(tmp_path: Path) -> None:
    clear = save(tmp_path / "clear/0001.png", 0, 64, 64)
    for name in ("0001_0.8_0.2.png", "0001_0.9_0.1.png"):
        save(tmp_path / "hazy" / name, 1)
    samples = read_reside(tmp_path, 64)
    assert len(samples) == 2
    np.testing.assert_array_equal(samples["clear"], np.stack([clear, clear]))
    save(tmp_path / "hazy/0002_0.8_0.2.png", 2)
    with pytest.raises(BadInput, match=r"0002_0\.8_0\.2\.png"):
        read_reside(tmp_path)
    with pytest.raises(BadInput, match="hazy and clear"):
        read_reside(tmp_path / "hazy")


def test_stereofog(tmp_path: Path) -> None:
    save(tmp_path / "A/img_7.png", 0)
    save(tmp_path / "B/img_7.png", 1)
    assert read_reside(tmp_path, 32)["images"].shape == (1, 32, 32, 3)


def test_div2k(tmp_path: Path) -> None:
    high = save(tmp_path / "DIV2K_train_HR/0001.png", 0)
    own = read_div2k(tmp_path, size=32, scale=4, patches=3)
    assert own["images"].shape == (3, 32, 32, 3)
    assert own["low"].shape == (3, 8, 8, 3)
    low_folder = tmp_path / "DIV2K_train_LR_bicubic/X4"
    low_folder.mkdir(parents=True)
    Image.fromarray(smaller(high, 4)).save(low_folder / "0001x4.png")
    given = read_div2k(tmp_path, size=32, scale=4, patches=3)
    np.testing.assert_array_equal(given["low"], own["low"])
    np.testing.assert_array_equal(given["images"], own["images"])
    places = np.lib.stride_tricks.sliding_window_view(high, (32, 32), axis=(0, 1))[::4, ::4]
    assert all((places == np.moveaxis(patch, 2, 0)).all(axis=(2, 3, 4)).any() for patch in given["images"])
    save(tmp_path / "DIV2K_train_HR/0002.png", 1)
    with pytest.raises(BadInput, match=r"no small version of 0002\.png"):
        read_div2k(tmp_path, size=32, scale=4)
    with pytest.raises(BadInput, match="smaller than 96"):
        read_div2k(tmp_path)
    with pytest.raises(BadInput, match="must divide"):
        read_div2k(tmp_path, size=30, scale=4)
    with pytest.raises(BadInput, match="not a folder"):
        read_div2k(tmp_path / "gone")


def test_see_in_the_dark(tmp_path: Path) -> None:
    samples = raw.make("train", 2, size=64)
    for row in range(2):
        np.save(tmp_path / f"shot{row}.npy", samples["mosaic"][row])
        Image.fromarray(samples["images"][row]).save(tmp_path / f"long{row}.png")
        facts = {name: samples[name][row].tolist() for name in ("black", "ratio", "balance", "matrix")}
        (tmp_path / f"shot{row}.json").write_text(
            json.dumps(facts | {"white": 4095, "picture": f"long{row}.png"})
        )
    back = read_sid(tmp_path, 64)
    for name in back.arrays:
        np.testing.assert_array_equal(back[name], samples[name], err_msg=name)
    np.testing.assert_array_equal(raw.develop(back, 1), raw.develop(samples, 1))
    middle = read_sid(tmp_path, 32)
    np.testing.assert_array_equal(middle["mosaic"], samples["mosaic"][:, 16:48, 16:48])
    (tmp_path / "shot1.npy").unlink()
    with pytest.raises(BadInput, match=r"shot1\.json"):
        read_sid(tmp_path, 64)
    (tmp_path / "shot1.json").write_text("{}")
    np.save(tmp_path / "shot1.npy", samples["mosaic"][1])
    with pytest.raises(BadInput, match=r"shot1\.json has no entry 'picture'"):
        read_sid(tmp_path, 64)
    with pytest.raises(BadInput, match=r"NAME\.npy"):
        read_sid(tmp_path / "gone")
