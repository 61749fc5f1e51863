from __future__ import annotations

import numpy as np
import pytest

from ondevice.data.rendered import sprites
from ondevice.data.rendered.textures import KINDS
from ondevice.errors import BadInput


def test_the_same_seed_gives_the_same_pictures_and_another_others() -> None:
    prints = [sprites.make("train", 6, seed=seed).fingerprint()["sha256"] for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    assert sprites.make("test", 6).fingerprint()["sha256"] not in prints


def test_train_and_test_share_no_style_pattern_field_or_clutter() -> None:
    train, test = sprites.make("train", 80), sprites.make("test", 80)
    for name in ("styles", "patterns"):
        assert not set(train[name].tolist()) & set(test[name].tolist())
    for factor in (sprites.STYLES, sprites.PATTERNS, sprites.FIELDS, sprites.PIECES):
        assert not set(factor["train"]) & set(factor["test"])  # type: ignore[call-overload]
    assert {KINDS[index] for index in train["patterns"]} <= set(sprites.PATTERNS["train"])


def test_boxes_bound_the_masks_and_objects_stand_out() -> None:
    made = sprites.make("train", 40, difficulty=0.0)
    for row in range(len(made)):
        rows, columns = np.nonzero(made["masks"][row])
        assert made["boxes"][row].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert 0.03 < made["masks"][row].mean() < 0.7
        picture, mask = made["images"][row].astype(float), made["masks"][row] > 0
        spread = picture.std((0, 1)).sum()
        assert np.abs(picture[mask].mean(0) - picture[~mask].mean(0)).sum() + spread > 10
    assert sorted(set(made["labels"].tolist()) - set(range(len(sprites.CLASSES)))) == []


def test_difficulty_moves_the_object_out_of_the_middle() -> None:
    def off_centre(difficulty: float) -> float:
        boxes = sprites.make("train", 60, difficulty=difficulty)["boxes"]
        return float(np.abs((boxes[:, 0] + boxes[:, 2]) / 2 - 24).mean())

    assert off_centre(0.0) < off_centre(1.0)


def test_a_sample_is_drawn_with_its_name_below() -> None:
    made = sprites.make("test", 1, size=32)
    assert sprites.draw(made, 0).shape == (32 * 4 + 16, 32 * 4, 3)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput, match="neither 'train' nor 'test'"):
        sprites.make("valid", 3)
    with pytest.raises(BadInput, match="a size of 24 pixels"):
        sprites.make("train", 3, size=8)
