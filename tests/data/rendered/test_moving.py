from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import moving
from ondevice.data.rendered.captions import MOTIONS, caption, held_out, read
from ondevice.errors import BadInput


@pytest.mark.parametrize(("frames", "size"), [(1, 32), (8, 32), (6, 48)])
def test_captions_are_read_back_from_the_pixels(frames: int, size: int) -> None:
    made = moving.captioned("test", 60, frames=frames, size=size)
    pictures = made["clips"] if frames > 1 else made["images"]
    readings = [read(picture) for picture in pictures]
    right = {
        "objects": [reading.object for reading in readings] == made["objects"],
        "colours": [reading.colour for reading in readings] == made["colours"],
        "places": [reading.place for reading in readings] == made["places"],
    }
    if frames > 1:
        right["motions"] = [reading.motion for reading in readings] == made["motions"]
    assert np.mean(right.pop("objects")) >= 0.93
    for name, each in right.items():
        assert np.mean(each) >= 0.98, name


def test_a_caption_of_another_picture_is_not_read() -> None:
    made = moving.captioned("train", 40, frames=6)
    noise = (
        np.random.default_rng(0)
        .permuted(made["clips"].reshape(40, 6, -1), axis=2)
        .reshape(made["clips"].shape)
    )
    assert (
        np.mean([read(clip).sure for clip in noise])
        < 0.5
        < np.mean([read(clip).sure for clip in made["clips"]])
    )


def test_a_clip_turned_back_moves_the_other_way() -> None:
    made = moving.captioned("train", 30, frames=6)
    opposite = {"left": "right", "right": "left", "up": "down", "down": "up", "rest": "rest"}
    for clip in made["clips"]:
        there, back = read(clip).motion, read(clip[::-1]).motion
        assert there is not None
        assert back is not None
        words = MOTIONS[there][0].split()
        assert MOTIONS[back][0] == " ".join([*words[:-1], opposite[words[-1]]])


def test_pairs_of_object_and_colour_are_kept_for_the_test() -> None:
    for split in ("train", "test"):
        made = moving.captioned(split, 50)
        pairs = zip(made["objects"].tolist(), made["colours"].tolist())
        assert {held_out(what, colour) for what, colour in pairs} == {split == "test"}


def test_captions_read_like_sentences() -> None:
    assert caption(1, 0, 1, 3) == "a red car on the left, moving slowly up"
    assert caption(2, 4, 0) == "a blue cat in the middle"
    assert caption(2, 4, 0, 0) == "a blue cat in the middle, at rest"
    made = moving.captioned("train", 4)
    assert moving.captions(made.take([2])) == [moving.captions(made)[2]]


def test_tracked_clips_know_where_the_object_is_and_when_it_is_hidden() -> None:
    made = moving.tracked("train", 2, frames=40, size=48)
    assert made.fingerprint() == moving.tracked("train", 2, frames=40, size=48).fingerprint()
    for clip in range(2):
        for frame in range(40):
            rows, columns = np.nonzero(made["masks"][clip, frame] == 1)
            left, top, right, bottom = made["boxes"][clip, frame]
            if len(rows):
                assert left - 1.5 <= columns.min()
                assert columns.max() + 1 <= right + 1.5
                assert top - 1.5 <= rows.min()
                assert rows.max() + 1 <= bottom + 1.5
        assert set(np.unique(made["masks"][clip])) >= {0, 1, 2}
        assert made["visible"][clip].max() == 1
    step = np.abs(np.diff(made["boxes"], axis=1))
    assert step.max() < 12


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="a path of at most 20 of 32 pixels"):
        moving.captioned("train", 2, frames=16, speed=2.0)
    with pytest.raises(BadInput, match="2 frames"):
        moving.tracked("train", 1, frames=1)
    with pytest.raises(BadInput, match="a still is uint8"):
        read(np.zeros((4, 4), np.uint8))
