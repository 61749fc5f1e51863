from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from ondevice.data.rendered import scenes, sprites
from ondevice.models.vision.pixels import pixels
from ondevice.models.zoo import find, open_zoo
from ondevice.train.pictures import accuracy, outputs
from ondevice.train.recipes import recipe_hash, reference_mobilenet, reference_resnet, reference_unet

NAMES = ("reference-mobilenet", "reference-resnet", "reference-unet")


@pytest.mark.parametrize("recipe", [reference_mobilenet, reference_resnet])
def test_a_classifier_is_trained_the_same_by_the_same_seed(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "_AMOUNT", {"quick": (240, 40, 1, 0.0)})

    def train() -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        torch.manual_seed(0)
        trained = recipe.train("quick", 0, lambda what, done: None)
        assert len(trained.data) == 2
        return trained.module.state_dict(), trained.metrics

    (weights, metrics), (again, same) = train(), train()
    assert metrics == same
    assert 0 <= metrics["accuracy"] <= 1
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, again[name], rtol=0, atol=0)


def test_the_unet_learns_what_most_pixels_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_unet, "_AMOUNT", {"quick": (48, 8, 4)})
    torch.manual_seed(0)
    trained = reference_unet.train("quick", 0, lambda what, done: None)
    truth = scenes.make("test", 8)["masks"]
    most = np.bincount(truth.ravel()).max() / truth.size
    assert trained.metrics["pixel_accuracy"] > most
    assert set(trained.metrics) == {
        "mean_iou", "pixel_accuracy", "frozen_random_mean_iou", "frozen_random_pixel_accuracy"
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_was_made_by_the_recipe_beside_it(name: str) -> None:
    record = open_zoo(name).record
    assert record["recipe"] == recipe_hash(name)
    assert record["scale"] == "full"
    assert find(name).name == name


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_shipped_classifier_is_as_good_as_its_record_on_pictures_of_another_seed(name: str) -> None:
    model = open_zoo(name)
    fresh = sprites.make("test", 200, seed=11)
    reached = accuracy(model.module, pixels(fresh["images"]), torch.from_numpy(fresh["labels"]))
    assert abs(reached - model.record["metrics"]["accuracy"]) < 0.09  # three standard errors of 200 pictures
    assert model.record["metrics"]["accuracy"] > model.record["metrics"]["frozen_random_accuracy"] + 0.15


def test_the_shipped_unet_is_as_good_as_its_record_on_scenes_of_another_seed() -> None:
    model = open_zoo("reference-unet")
    fresh = scenes.make("test", 20, seed=11)
    right = (outputs(model.module, pixels(fresh["images"])).argmax(1).numpy() == fresh["masks"]).mean()
    assert abs(right - model.record["metrics"]["pixel_accuracy"]) < 0.06
    assert model.record["metrics"]["mean_iou"] > model.record["metrics"]["frozen_random_mean_iou"] + 0.1
