from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ondevice.data.rendered import people
from ondevice.data.rendered.bodies import JOINTS, Stance, joints
from ondevice.errors import BadInput

ANGLES = st.floats(-3, 3)


def test_the_same_seed_gives_the_same_people_and_another_others() -> None:
    prints = [people.make("train", 3, seed=seed).fingerprint()["sha256"] for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_train_and_test_share_no_stance() -> None:
    assert not set(people.STANCES["train"]) & set(people.STANCES["test"])


def test_joints_and_masks_fit_together() -> None:
    made = people.make("test", 25)
    on_the_body = []
    for mask, points, boxes in zip(made["masks"], made["keypoints"], made["boxes"]):
        for person in range(people.MOST):
            rows, columns = np.nonzero(mask == person + 1)
            if not len(rows):
                assert not (points[person, :, 2] == 2).any()
                continue
            assert boxes[person].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            for x, y, shown in points[person]:
                if shown == 2:
                    on_the_body.append(mask[int(y), int(x)] == person + 1)
    assert len(on_the_body) > 200
    assert all(on_the_body)


def test_joints_are_hidden_by_the_body_and_by_others() -> None:
    shown = people.make("train", 40)["keypoints"][..., 2]
    eyes = shown[..., [JOINTS.index("left_eye"), JOINTS.index("right_eye")]]
    assert 0.15 < (eyes[shown.any(2)] == 1).mean() < 0.85  # half of the people turn their backs
    assert (shown[shown.any(2)] == 2).mean() > 0.4


@settings(max_examples=30, deadline=None)
@given(ANGLES, ANGLES, ANGLES, ANGLES)
def test_bones_keep_their_length_in_every_stance(yaw: float, thigh: float, knee: float, arm: float) -> None:
    body = joints(Stance(yaw, 0.1, (thigh, -thigh), (knee, 0.2), arm=(arm, 1.0)))
    at = dict(zip(JOINTS, body))
    for side in ("left", "right"):
        assert np.linalg.norm(at[f"{side}_hip"] - at[f"{side}_knee"]) == pytest.approx(0.245)
        assert np.linalg.norm(at[f"{side}_knee"] - at[f"{side}_ankle"]) == pytest.approx(0.235)
        assert np.linalg.norm(at[f"{side}_shoulder"] - at[f"{side}_elbow"]) == pytest.approx(0.165)


def test_left_is_on_the_right_of_who_faces_us() -> None:
    facing, turned = joints(Stance(yaw=0.0)), joints(Stance(yaw=np.pi))
    left, right = JOINTS.index("left_shoulder"), JOINTS.index("right_shoulder")
    assert facing[left, 0] > facing[right, 0]
    assert turned[left, 0] < turned[right, 0]
    assert facing[0, 2] > 0 > turned[0, 2]  # the nose is near, then far


def test_a_sample_is_drawn_with_its_bones() -> None:
    made = people.make("train", 1)
    drawn = people.draw(made, 0)
    assert drawn.shape == (192, 192, 3)
    assert (drawn != made["images"][0].repeat(2, 0).repeat(2, 1)).any()


def coco(folder: Path, **changes: object) -> Path:
    points = [float(value) for joint in range(17) for value in (joint, 2 * joint, 2)]
    content = {
        "images": [{"id": 7, "file_name": "a.png"}],
        "annotations": [
            {"image_id": 7, "keypoints": points, "bbox": [1, 2, 10, 20]},
            {"image_id": 7, "keypoints": [0.0] * 51, "bbox": [0, 0, 1, 1]},
        ],
    } | changes
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(folder / "a.png")
    path = folder / "person_keypoints_val.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_files_are_read(tmp_path: Path) -> None:
    read = people.read_coco_keypoints(coco(tmp_path), tmp_path)
    assert len(read) == 1
    assert read["keypoints"].shape == (1, 3, 17, 3)
    assert read["keypoints"][0, 0, 3].tolist() == [3, 6, 2]
    assert read["keypoints"][0, 1:].sum() == 0
    assert read["boxes"][0, 0].tolist() == [1, 2, 11, 22]


def test_bad_coco_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no"):
        people.read_coco_keypoints(tmp_path / "none.json", tmp_path)
    short = [{"image_id": 7, "keypoints": [1, 2, 2], "bbox": [0, 0, 1, 1]}]
    with pytest.raises(BadInput, match="a person of 1 joints, not 17"):
        people.read_coco_keypoints(coco(tmp_path, annotations=short), tmp_path)
    with pytest.raises(BadInput, match="is not a COCO keypoint file"):
        people.read_coco_keypoints(coco(tmp_path, images=[{}]), tmp_path)
    with pytest.raises(BadInput, match="the data set is not complete"):
        people.read_coco_keypoints(coco(tmp_path, images=[{"id": 7, "file_name": "b.png"}]), tmp_path)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="a size of 48 pixels"):
        people.make("train", 1, size=20)
