from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ondevice.data.rendered import scenes
from ondevice.data.rendered.street import CAR, FAR, PERSON, ROAD, SKY
from ondevice.errors import BadInput


def test_the_same_seed_gives_the_same_scenes_and_another_others() -> None:
    prints = [scenes.make("train", 2, seed=seed).fingerprint()["sha256"] for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_train_and_test_share_no_kind_of_thing() -> None:
    for factor, kinds in scenes.FACTORS["train"].items():
        assert not set(kinds) & set(scenes.FACTORS["test"][factor])


def test_classes_depth_and_instances_fit_together() -> None:
    made = scenes.make("test", 12)
    masks, depths, instances = made["masks"], made["depths"], made["instances"]
    assert set(np.unique(masks)) == set(range(len(scenes.CLASSES)))
    assert (depths[masks == SKY] == FAR).all()
    assert (depths[masks != SKY] < FAR + 1).all()
    counted = (masks == CAR) | (masks == PERSON)
    assert (instances[counted] > 0).all()
    assert (instances[~counted] == 0).all()
    for mask, depth, instance in zip(masks, depths, instances):
        road = np.where(mask == ROAD, depth, np.nan)
        rows = np.nanmean(road[~np.isnan(road).all(axis=1)], axis=1)
        assert (np.diff(rows) < 0).all()  # the ground comes nearer from row to row
        for number in set(np.unique(instance)) - {0}:
            assert len(np.unique(depth[instance == number])) == 1
            assert len(np.unique(mask[instance == number])) == 1


def test_the_truth_lies_below_the_picture() -> None:
    made = scenes.make("train", 1, height=32, width=48)
    drawn = scenes.draw(made, 0)
    assert drawn.shape == (128, 96, 3)
    assert {tuple(colour) for colour in drawn[64:].reshape(-1, 3)} <= {
        tuple(colour) for colour in scenes.COLOURS
    }


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="sides of 32 pixels"):
        scenes.make("train", 1, height=16)


def write(folder: Path, name: str, picture: np.ndarray) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(folder / name)


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        ("JPEGImages/2007_000032.png", "SegmentationClass/2007_000032.png"),
        (
            "leftImg8bit/train/aachen/aachen_0_leftImg8bit.png",
            "gtFine/train/aachen/aachen_0_gtFine_labelTrainIds.png",
        ),
        ("images/a.png", "masks/a.png"),
    ],
)
def test_public_layouts_are_read(tmp_path: Path, picture: str, label: str) -> None:
    made = scenes.make("train", 1, height=32, width=40)
    write(tmp_path, picture, made["images"][0])
    with pytest.raises(BadInput, match="has no label file"):
        scenes.read_segmentation(tmp_path, scenes.CLASSES)
    mask = made["masks"][0].copy()
    mask[0, 0] = 255
    write(tmp_path, label, mask)
    read = scenes.read_segmentation(tmp_path, scenes.CLASSES)
    np.testing.assert_array_equal(read["images"], made["images"])
    np.testing.assert_array_equal(read["masks"][0], mask)
    with pytest.raises(BadInput, match="name all classes"):
        scenes.read_segmentation(tmp_path, scenes.CLASSES[:1])
    write(tmp_path, label, mask[:10])
    with pytest.raises(BadInput, match="they must agree"):
        scenes.read_segmentation(tmp_path, scenes.CLASSES)


def test_palettes_keep_their_numbers(tmp_path: Path) -> None:
    write(tmp_path, "images/a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "masks").mkdir()
    mask = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 3, "P")
    mask.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    mask.save(tmp_path / "masks/a.png")
    read = scenes.read_segmentation(tmp_path, ("a", "b", "c"))
    np.testing.assert_array_equal(read["masks"][0], np.arange(16).reshape(4, 4) % 3)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has none of the folders"):
        scenes.read_segmentation(tmp_path, scenes.CLASSES)
