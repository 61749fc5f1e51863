from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from ondevice.errors import BadInput, NotBuilt
from ondevice.models import zoo as models
from ondevice.train.recipes import Trained
from ondevice.verbs.zoo import zoo, zoo_build, zoo_show

TOY = "toy_recipe_of_the_test"


def build(config: dict[str, Any]) -> nn.Module:
    return nn.Linear(config["columns"], 1)


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A zoo of one toy model; the scales at which its recipe ran."""
    runs: list[str] = []
    recipe = ModuleType(TOY)
    recipe.__file__ = str(tmp_path / "toy.py")
    (tmp_path / "toy.py").write_text("first version")

    def train(scale: str, seed: int, progress: Any) -> Trained:
        runs.append(scale)
        if seed == 13:
            raise KeyboardInterrupt
        config = {"columns": 3}
        return Trained(build(config), config, {"loss": 0.5}, [{"name": "nothing"}])

    recipe.train = train  # type: ignore[attr-defined]
    recipe.build = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, TOY, recipe)
    entries = {
        "toy": models.Entry("toy", "a toy", f"{TOY}:build", TOY),
        "none": models.Entry("none", "", "", "ondevice.train.recipes.none"),
    }
    monkeypatch.setattr(models, "ENTRIES", entries)
    monkeypatch.setenv("ONDEVICE_CACHE", str(tmp_path / "cache"))
    return runs


def test_a_model_is_built_once_for_a_recipe_scale_and_seed(trainings: list[str], tmp_path: Path) -> None:
    first = zoo_build("toy", quick=True)
    again = zoo_build("toy", quick=True)
    assert trainings == ["quick"]
    assert torch.equal(first.module.weight.half(), again.module.weight.half())
    zoo_build("toy", quick=True, seed=1)
    zoo_build("toy")
    (tmp_path / "toy.py").write_text("second version")
    zoo_build("toy")
    assert trainings == ["quick", "quick", "full", "full"]


def test_the_same_seed_gives_the_same_weights(trainings: list[str], tmp_path: Path) -> None:
    one, two = (zoo_build("toy", quick=True, seed=5, out=tmp_path / name) for name in ("a", "b"))
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
    assert torch.equal(one.module.weight, two.module.weight)


def test_the_list_says_what_is_there(trainings: list[str]) -> None:
    assert [(row.name, row.folder) for row in zoo()] == [("toy", None), ("none", None)]
    zoo_build("toy")
    [toy, _] = zoo()
    assert toy.record["metrics"] == {"loss": 0.5}
    json.dumps(toy.to_json())
    shown = zoo_show("toy")
    assert (shown["parameters"], shown["scale"], shown["seed"]) == (4, "full", 0)


def test_an_interrupted_build_leaves_nothing(trainings: list[str], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        zoo_build("toy", seed=13, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_input(trainings: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there are: toy"):
        zoo_build("nobody")
    with pytest.raises(NotBuilt, match="no recipe yet"):
        zoo_build("none")
    (tmp_path / "there").mkdir()
    with pytest.raises(BadInput, match="--overwrite"):
        zoo_build("toy", out=tmp_path / "there")
    assert zoo_build("toy", out=tmp_path / "there", overwrite=True).folder == tmp_path / "there"
