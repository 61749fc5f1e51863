from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ondevice.data.rendered import faces
from ondevice.data.rendered.portraits import IDENTITY, portrait
from ondevice.errors import BadInput


def test_the_same_seed_gives_the_same_faces_and_another_others() -> None:
    prints = [faces.make("train", 4, seed=seed).fingerprint()["sha256"] for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_train_and_test_share_no_identity() -> None:
    for split, expected in (("train", 0), ("test", 1)):
        assert (faces.cell(faces.make(split, 25, identities=25, size=32)["factors"]) == expected).all()


@pytest.mark.parametrize("factor", IDENTITY)
def test_every_factor_of_an_identity_shows(factor: str) -> None:
    low, high = np.full(20, 0.5), np.full(20, 0.5)
    low[IDENTITY.index(factor)], high[IDENTITY.index(factor)] = 0.05, 0.95
    one, other = (
        portrait(np.random.default_rng(4), factors, 64)["images"].astype(int) for factors in (low, high)
    )
    assert (np.abs(one - other).max(2) > 12).sum() >= 10  # the same chance, so the same pose, light and noise


def test_landmarks_lie_where_the_features_are() -> None:
    made = faces.make("test", 30, identities=10)
    points = made["landmarks"]
    assert (points > 0).all()
    assert (points < 64).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = np.moveaxis(points, 1, 0)
    assert (left_eye[:, 0] < right_eye[:, 0]).all()
    assert (left_mouth[:, 0] < right_mouth[:, 0]).all()
    assert ((left_eye + right_eye)[:, 1] / 2 < nose[:, 1]).all()
    assert (nose[:, 1] < (left_mouth + right_mouth)[:, 1] / 2).all()
    bare = np.flatnonzero(made["glasses"] == 0)
    luminance = made["images"].astype(float).mean(3)
    x, y = np.round(left_eye[bare]).astype(int).T - 0
    centre = np.array([luminance[row, b - 2 : b + 3, a - 3 : a + 4].std() for row, a, b in zip(bare, x, y)])
    skin = np.array([luminance[row, b + 4 : b + 8, a - 3 : a + 4].std() for row, a, b in zip(bare, x, y)])
    assert (centre > skin).mean() > 0.8  # an eye has more contrast than the cheek below


def test_pairs_are_true_and_hard_ones_are_more_alike() -> None:
    made = faces.make("train", 60, identities=20, size=32)
    distances = {}
    for hard in (0.0, 1.0):
        left, right, same = faces.pairs(made, 200, hard=hard)
        np.testing.assert_array_equal(made["identities"][left] == made["identities"][right], same)
        assert (left != right).all()
        assert same.sum() == 100
        gap = ((made["factors"][left] - made["factors"][right]) ** 2).sum(1)
        distances[hard] = gap[~same].mean()
    assert distances[1.0] < 0.8 * distances[0.0]


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name.rpartition("_")[0] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(path)


def test_labeled_faces_in_the_wild_are_read(tmp_path: Path) -> None:
    write(tmp_path / "lfw", "Ada_L_0001", "Ada_L_0002", "Bob_0001")
    read = faces.read_lfw(tmp_path / "lfw", size=32)
    assert read.classes == ("Ada_L", "Bob")
    assert read["identities"].tolist() == [0, 0, 1]
    with pytest.raises(BadInput, match=r"there is no .*pairs\.txt"):
        faces.read_lfw_pairs(tmp_path / "pairs.txt", read)
    (tmp_path / "pairs.txt").write_text("1\t1\nAda_L\t1\t2\nAda_L\t2\tBob\t1\n")
    left, right, same = faces.read_lfw_pairs(tmp_path / "pairs.txt", read)
    assert (left.tolist(), right.tolist(), same.tolist()) == ([0, 1], [1, 2], [True, False])
    (tmp_path / "pairs.txt").write_text("1\nAda_L\t1\t9\n")
    with pytest.raises(BadInput, match="picture 9 of Ada_L"):
        faces.read_lfw_pairs(tmp_path / "pairs.txt", read)
    (tmp_path / "pairs.txt").write_text("1\nAda_L\tone\t9\n")
    with pytest.raises(BadInput, match="line 2"):
        faces.read_lfw_pairs(tmp_path / "pairs.txt", read)
    (tmp_path / "lfw" / "Bob" / "Bob_0001.jpg").rename(tmp_path / "lfw" / "Bob" / "portrait.jpg")
    with pytest.raises(BadInput, match="is not named NAME"):
        faces.read_lfw(tmp_path / "lfw")


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="a size of 32 pixels"):
        faces.make("train", 2, size=8)
    with pytest.raises(BadInput, match="pairs need two people"):
        faces.pairs(faces.make("train", 2, identities=1, size=32), 4)
