"""zoo: the small models that this project trains, which are there, and how to build them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ondevice.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from ondevice.models.zoo import ZooModel

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class ZooRow:
    """A model of the zoo. folder: where it lies, None where it is not built. record: its `zoo.json`."""

    name: str
    title: str
    folder: Path | None
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"folder": str(self.folder) if self.folder else None}


def zoo() -> list[ZooRow]:
    """Every model of the zoo."""
    models = _models()
    rows = []
    for name, entry in models.ENTRIES.items():
        there = [folder for folder in models.folders(name) if (folder / "zoo.json").exists()]
        record = json.loads((there[0] / "zoo.json").read_text()) if there else {}
        rows.append(ZooRow(name, entry.title, there[0] if there else None, record))
    return rows


def zoo_build(
    name: str,
    *,
    quick: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda what, done: None,
) -> ZooModel:
    """Train a model by its recipe, unless this recipe's result is there already.

    quick: a minute on two cores instead of the full recipe. Raises BadInput for an unknown name and where `out`
    exists; NotBuilt where there is no recipe.
    """
    models = _models()
    from ondevice.train import recipes

    models.find(name)
    scale: Literal["quick", "full"] = "quick" if quick else "full"
    if out is not None and Path(out).exists() and not overwrite:
        raise BadInput(f"{out} exists; choose another name or pass --overwrite")
    for folder in [] if overwrite or out is not None else models.folders(name):
        if (folder / "zoo.json").exists():
            record = json.loads((folder / "zoo.json").read_text())
            fits = (record["scale"], record["seed"], record["recipe"])
            if fits == (scale, seed, recipes.recipe_hash(name)):
                opened: ZooModel = models.open_zoo(name, folder)
                return opened
    return recipes.build(name, scale, seed=seed, out=Path(out) if out else None, progress=progress)


def zoo_pack(name: str, out: str | Path) -> None:
    """Write a copy of a finished model at 8 bits a weight, half of its size; it opens as the whole one does.

    Its record keeps the metrics of the float16 form. Raises NotBuilt where the model is not there, BadInput where
    `out` exists.
    """
    models = _models()
    from ondevice.models.packed import pack

    pack(models.locate(name), Path(out))


def zoo_show(name: str) -> dict[str, Any]:
    """What a finished model is: its `zoo.json`, configuration, number of parameters, folder.

    Raises NotBuilt where it is not there, BadArtifact where it is damaged.
    """
    model = _models().open_zoo(name)
    count = sum(parameter.numel() for parameter in model.module.parameters())
    return {"folder": str(model.folder), "parameters": count, "config": model.config, **model.record}


def _models() -> Any:
    try:
        from ondevice.models import zoo as models
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "fit", "for the models of the zoo") from error
    return models
