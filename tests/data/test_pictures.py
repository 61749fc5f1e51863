"""Pictures from files, against Pillow."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ondevice.data.pictures import picture_files, read_picture
from ondevice.errors import BadInput, MissingExtra

Image = pytest.importorskip("PIL.Image")


def test_reads_as_it_was_written(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "b.png")
    Image.fromarray(colours[..., 0]).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.png"]
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png"), colours)
    assert read_picture(tmp_path / "a.png").shape == (6, 9, 3)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", grey=True)[..., 0], colours[..., 0])


def test_the_middle_square_is_cut_out(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_picture(tmp_path / "wide.png", 20) == 200).all()
    assert read_picture(tmp_path / "wide.png", 7).shape == (7, 7, 3)


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(BadInput, match=r"broken\.png is not a picture"):
        read_picture(tmp_path / "broken.png")
    with pytest.raises(BadInput, match=r"gone\.png is missing"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(BadInput, match="not a folder"):
        picture_files(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no pictures"):
        picture_files(tmp_path / "empty")


def test_without_pillow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"ondevice-ml\[data\]"):
        read_picture(tmp_path / "a.png")
