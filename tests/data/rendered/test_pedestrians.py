from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ondevice.data.rendered import pedestrians
from ondevice.errors import BadInput


def test_the_same_seed_gives_the_same_pedestrians_and_another_others() -> None:
    prints = [pedestrians.make("train", 4, seed=seed).fingerprint()["sha256"] for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_train_and_test_share_no_identity() -> None:
    for split, expected in (("train", 0), ("test", 1)):
        assert (pedestrians.cell(pedestrians.make(split, 20, identities=20)["hues"]) == expected).all()


def test_every_identity_is_seen_by_every_camera() -> None:
    made = pedestrians.make("test", 24, identities=4, cameras=3, height=48)
    assert made["images"].shape == (24, 48, 24, 3)
    for who in range(4):
        mine = made["identities"] == who
        assert mine.sum() == 6
        assert set(made["cameras"][mine].tolist()) == {0, 1, 2}
        assert len(np.unique(made["hues"][mine], axis=0)) == 1


def test_clothes_tell_people_apart_better_than_chance_and_not_perfectly() -> None:
    made = pedestrians.make("train", 120, identities=20)
    body = (
        made["images"][:, 12:60, 10:22].astype(float).reshape(120, 4, 12, 12, 3).mean((2, 3)).reshape(120, -1)
    )
    distance = ((body[:, None] - body) ** 2).sum(2)
    distance[made["cameras"][:, None] == made["cameras"]] = np.inf
    right = made["identities"][distance.argmin(1)] == made["identities"]
    assert 0.1 < right.mean() < 0.9  # chance is one in twenty


def test_market_1501_names_are_read(tmp_path: Path) -> None:
    (tmp_path / "query").mkdir()
    for name in ("0002_c1s1_000451_03.jpg", "-1_c3s2_000001_00.jpg", "0000_c6s1_000002_01.jpg"):
        Image.fromarray(np.zeros((128, 64, 3), np.uint8)).save(tmp_path / "query" / name)
    (tmp_path / "query" / "Thumbs.db").write_bytes(b"")
    read = pedestrians.read_market1501(tmp_path, part="query", height=64)
    assert sorted(zip(read["identities"].tolist(), read["cameras"].tolist())) == [(-1, 2), (0, 5), (2, 0)]
    assert read["images"].shape == (3, 64, 32, 3)
    with pytest.raises(BadInput, match="bounding_box_train"):
        pedestrians.read_market1501(tmp_path)
    (tmp_path / "query" / "0002_c1s1_000451_03.jpg").rename(tmp_path / "query" / "me.jpg")
    with pytest.raises(BadInput, match=r"me\.jpg is not named like"):
        pedestrians.read_market1501(tmp_path, part="query")


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="2 to 6 cameras"):
        pedestrians.make("train", 4, cameras=9)
