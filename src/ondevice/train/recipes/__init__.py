"""How the models of the zoo are trained, one file a model.

A recipe's module has
    train(scale, seed, progress) -> Trained
where scale is "quick" (a minute on two cores) or "full". The same seed gives the same weights on one machine.
Knows recipes and the zoo's files. The models that come out are opened by `ondevice.models.zoo`.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ondevice.cache import cache_folder
from ondevice.errors import BadInput, NotBuilt
from ondevice.models.zoo import ZooModel, ZooScale, find, save

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Trained:
    """What a recipe gives. metrics: held-out figures by name, with the unit in the name where there is one.
    data: fingerprints of what it learned from and what it was judged by."""

    module: nn.Module
    config: dict[str, Any]
    metrics: dict[str, float]
    data: list[Mapping[str, Any]]
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)


def recipe_hash(name: str) -> str:
    """SHA-256 of the recipe's source, first 16 hexadecimal digits. Raises NotBuilt where there is none."""
    return hashlib.sha256(Path(str(_module(name).__file__)).read_bytes()).hexdigest()[:16]


def build(
    name: str,
    scale: ZooScale = "full",
    *,
    seed: int = 0,
    out: Path | None = None,
    progress: Progress = lambda what, done: None,
) -> ZooModel:
    """Train a model by its recipe and write it to the cache folder, or to `out`.

    An interrupted build leaves nothing behind. Raises NotBuilt where there is no recipe.
    """
    if scale not in ("quick", "full"):
        raise BadInput(f"scale {scale!r} is neither 'quick' nor 'full'")
    recipe, source = _module(name), recipe_hash(name)  # before training: the file may change meanwhile
    folder = out or cache_folder() / "zoo" / f"{name}-{scale}"
    start = time.monotonic()
    torch.manual_seed(seed)
    trained: Trained = recipe.train(scale, seed, progress)
    record = {
        "name": name,
        "recipe": source,
        "scale": scale,
        "seed": seed,
        "metrics": trained.metrics,
        "data": [dict(each) for each in trained.data],
        "notes": trained.notes,
        "seconds": round(time.monotonic() - start, 1),
        "machine": platform.machine(),
    }
    model = ZooModel(name, trained.module.eval(), trained.config, trained.tokenizer, record, folder)
    save(model, folder)
    return model


def _module(name: str) -> Any:
    path = find(name).recipe
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            raise NotBuilt(f"{name} has no recipe yet") from error
        raise
