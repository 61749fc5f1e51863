"""simulate: how fast a decoder would write on flash that computes. Modelled, never measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ondevice.devices.simulate import flash
from ondevice.errors import BadInput
from ondevice.runtime.weights.shapes import SHAPES, find_shape, matrices, parameters

_STORAGE = 4e9  # bytes/s that UFS 4.0 promises: what the same processor would read weights with otherwise


@dataclass(frozen=True)
class Simulated:
    """Seconds are of one token; offloading: where the same processor reads all weights from storage of
    `storage_bandwidth` bytes/s. Every figure is modelled."""

    platform: str
    model: str
    context: int
    time: flash.TokenTime
    offloading: float
    storage_bandwidth: float = _STORAGE

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice devices simulate --json` prints."""
        rates = asdict(self.time.rates) | {"alpha": self.time.rates.alpha}
        return {
            "kind": "modelled", "platform": self.platform, "model": self.model, "context": self.context,
            "tokens_per_second": 1 / self.time.seconds, "seconds": asdict(self.time) | {"rates": rates},
            "offloading_tokens_per_second": 1 / self.offloading, "storage_bandwidth": self.storage_bandwidth,
        }  # fmt: skip


def simulate(platform: str | Path, model: str | Path, *, context: int = 1000) -> Simulated:
    """One token of a decoder, 8-bit weights in the flash, 8-bit keys and values of `context` tokens in the memory.

    platform: "cambricon-s", "-m", "-l" or a .toml file of your own. model: a published shape's name, or a folder or
    config.json of Hugging Face. Raises DeviceUnknown for another platform, BadInput for another model and for one
    that does not fit: into the flash, the memory or the tiles.
    """
    machine = flash.load(platform)
    config = _config(model)
    table = (config["vocab_size"], config["hidden_size"])
    work = flash.decoder_work(
        list(matrices(config).values()), config["num_hidden_layers"], table, heads=config["num_attention_heads"],
        cached_heads=config["num_key_value_heads"], head_size=config["head_dim"], context=context,
    )  # fmt: skip
    time = flash.token_time(machine, work)
    flash.check(machine, work, time.tile, parameters(config))
    return Simulated(machine.name, str(model), context, time, flash.offloading_time(machine, work, _STORAGE))


def _config(model: str | Path) -> dict[str, Any]:
    if str(model) in SHAPES:
        return find_shape(str(model))
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.exists():
        raise BadInput(
            f"no model {str(model)!r}; give a config.json, its folder or one of: {', '.join(SHAPES)}"
        )
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
        heads = config["num_attention_heads"]
        config.setdefault("num_key_value_heads", heads)
        config.setdefault("head_dim", config["hidden_size"] // heads)
        config.setdefault("tie_word_embeddings", False)
        matrices(config), parameters(config)
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError) as problem:
        raise BadInput(f"{path} is no configuration of a dense decoder: {problem!r}") from problem
    return config
