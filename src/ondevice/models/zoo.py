"""The small models that this project trains: names, files, checksums.

Knows where a finished model lies, without torch, and how to open it, with. Knows nothing of how one is trained: that is
`ondevice.train.recipes`, one file a model. A finished model is a folder: `config.json`, `model.safetensors`
(float16), `tokenizer.json` where it reads text, and `zoo.json` (recipe hash, seed, scale, held-out metrics, data,
checksums), or the packed form of one (`ondevice.models.packed`). Folders shipped in the package come first, then the
user's cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ondevice.atomic import writing
from ondevice.cache import cache_folder
from ondevice.errors import BadArtifact, BadInput, NotBuilt
from ondevice.models.packed import whole

if TYPE_CHECKING:
    import torch
    from torch import nn

ZooScale = Literal["quick", "full"]


@dataclass(frozen=True)
class Entry:
    """A model of the zoo. architecture: "module:function" that makes the module from its config."""

    name: str
    title: str
    architecture: str
    recipe: str

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """The module with whatever weights its constructor gives."""
        module, _, function = self.architecture.partition(":")
        make: Callable[[Mapping[str, Any]], nn.Module] = getattr(import_module(module), function)
        return make(config)


def _entry(name: str, title: str, architecture: str) -> Entry:
    return Entry(name, title, architecture, f"ondevice.train.recipes.{name.replace('-', '_')}")


_HUGGING_FACE = "ondevice.models.zoo:from_hugging_face"
ENTRIES = {
    entry.name: entry
    for entry in (
        _entry("reference-lm", "Llama-style decoder, 4 layers of 256, BPE 4k", _HUGGING_FACE),
        _entry("lm-8m", "Llama-style decoder, 8 layers of 256, BPE 4k", _HUGGING_FACE),
        _entry("dialogue-lm", "reference-lm taught further on made conversations and tasks", _HUGGING_FACE),
        _entry("medusa-heads", "four heads on lm-8m that guess tokens ahead", "ondevice.models.text.medusa:build"),
        _entry("moe-tiny", "Mixtral-style decoder, 16 experts, 2 a token, five domains", _HUGGING_FACE),
        _entry("rerank-tiny", "cross-encoder of 12 layers that ranks passages, MiniLM taught further", _HUGGING_FACE),
        _entry("seq2seq-6m", "T5-style encoder-decoder", _HUGGING_FACE),
        _entry("reference-resnet", "ResNet that classifies rendered pictures", "ondevice.models.vision.resnet:build"),
        _entry("reference-mobilenet", "MobileNetV2 that classifies rendered pictures",
               "ondevice.models.vision.mobilenet:build"),
        _entry("reference-unet", "U-Net that segments rendered scenes", "ondevice.models.vision.unet:build"),
        _entry("command-asr", "Conformer with CTC and six exits", "ondevice.models.audio.conformer:build"),
        _entry("speaker-encoder", "voices as vectors", "ondevice.models.audio.speaker:build"),
        _entry("keyword-dscnn", "depthwise-separable network that spots words", "ondevice.models.audio.dscnn:build"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class ZooModel:
    """An open model. module: in eval mode, float32. tokenizer: a `tokenizers.Tokenizer`, or None.
    config: what its architecture was built from. record: `zoo.json`; record["metrics"] are held-out figures."""

    name: str
    module: nn.Module
    config: dict[str, Any]
    tokenizer: Any = None
    record: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None


def from_hugging_face(config: Mapping[str, Any]) -> nn.Module:
    """A transformers model of the class that the config names in "architectures"."""
    import transformers

    fields = dict(config)
    make = getattr(transformers, fields["architectures"][0])
    module: nn.Module = make(transformers.AutoConfig.for_model(**fields))
    return module


def find(name: str) -> Entry:
    """The entry of that name. Raises BadInput for an unknown one."""
    if name not in ENTRIES:
        raise BadInput(f"no model {name!r} in the zoo; there are: {', '.join(ENTRIES)}")
    return ENTRIES[name]


def folders(name: str) -> list[Path]:
    """Where a model may lie, in the order in which it is looked for: shipped, full, quick."""
    shipped = Path(str(resources.files("ondevice.models"))) / "shipped" / name
    return [shipped, *(cache_folder() / "zoo" / f"{name}-{scale}" for scale in ("full", "quick"))]


def locate(name: str) -> Path:
    """The folder of a finished model. Raises NotBuilt with the command that builds it."""
    find(name)
    for folder in folders(name):
        if (folder / "zoo.json").exists():
            return whole(folder)
    raise NotBuilt(f"{name} is not built here; run: ondevice zoo build {name}")


def open_zoo(name: str, folder: Path | None = None) -> ZooModel:
    """A finished model. folder: read this one instead of looking for it.

    Raises NotBuilt where there is none, BadArtifact where its files are damaged.
    """
    entry, folder = find(name), whole(folder) if folder else locate(name)
    try:
        record = json.loads((folder / "zoo.json").read_text())
        for file, expected in record["sha256"].items():
            if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
                raise BadArtifact(f"{file} of {name} is damaged; run: ondevice zoo build {name} --overwrite")
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, BadArtifact):
            raise
        raise BadArtifact(f"{folder} is not a model of the zoo: {error}") from error
    from safetensors.torch import load_file

    module = entry.build(config)
    weights = {key: tensor.float() if tensor.is_floating_point() else tensor
               for key, tensor in load_file(folder / "model.safetensors").items()}  # fmt: skip
    missing, unexpected = module.load_state_dict(weights, strict=False)
    tied = {key for key in missing if key in getattr(module, "all_tied_weights_keys", {})}
    if unexpected or set(missing) - tied:
        raise BadArtifact(f"the weights of {name} do not fit its architecture; build it again")
    tie = getattr(module, "tie_weights", None)
    if tied and tie is not None:
        tie()
    tokenizer = None
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return ZooModel(name, module.eval(), config, tokenizer, record, folder)


def save(model: ZooModel, folder: Path) -> None:
    """Write a finished model, whole or not at all. Floats become float16."""
    from safetensors.torch import save

    seen: set[int] = set()
    weights: dict[str, torch.Tensor] = {}
    for key, tensor in model.module.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel() > 1:
            continue  # tied to one that is written already
        seen.add(tensor.data_ptr())
        weights[key] = (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
    with writing(folder) as fresh:
        (fresh / "config.json").write_text(json.dumps(model.config, indent=1, sort_keys=True))
        (fresh / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
        if model.tokenizer is not None:
            model.tokenizer.save(str(fresh / "tokenizer.json"))
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(fresh.iterdir())}
        (fresh / "zoo.json").write_text(json.dumps(model.record | {"sha256": sums}, indent=1, sort_keys=True))
