"""A Hugging Face checkpoint folder: what its files say, before any network is built from it.

Knows the files of transformers and sentence-transformers, and what in them is refused. Knows neither torch
nor MLX nor the hub: `load.py` and the MLX backend make networks of what is read here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ondevice.errors import BadInput, MissingExtra, UnsafeModel, UnsupportedModel
from ondevice.models.tasks import Pooling, Task

ENCODERS = ("bert", "roberta", "xlm-roberta")
DECODERS = ("llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
SUPPORTED = (
    "supported: BERT, RoBERTa and XLM-RoBERTa encoders for embedding and sequence classification, and Llama, "
    "Mistral, Qwen2 and Qwen3 decoders, also with experts (Mixtral, Qwen-MoE, OLMoE)"
)

_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "max": "max"}
# Names that sentence-transformers gave its transformer module's settings over the years.
_SENTENCE_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)
# Architectures whose encoder makes an embedding.
_EMBEDDING_ARCHITECTURES = ("Model", "ForMaskedLM", "ForPreTraining")


@dataclass(frozen=True)
class Checkpoint:
    """A folder that has been looked over: its network's folder, its configuration and its licence.

    folder: where sentence-transformers' modules.json would be. network: where config.json and the weights are
    (the same folder, but for old sentence-transformers checkpoints). config: config.json.
    """

    folder: Path
    network: Path
    config: dict[str, Any]
    modules: tuple[dict[str, Any], ...]
    licence: str

    @property
    def family(self) -> str:
        """Model type, such as "bert" or "llama"."""
        return str(self.config["model_type"])

    @property
    def decoder(self) -> bool:
        """Whether it predicts the next token."""
        return self.family in DECODERS

    @property
    def architecture(self) -> str:
        """The class that transformers would build, such as "BertForSequenceClassification"; "" if unnamed."""
        named = self.config.get("architectures")
        return str(named[0]) if isinstance(named, list) and named else ""

    @property
    def positions(self) -> int:
        """Longest input in tokens that the position embeddings allow."""
        positions = int(self.config.get("max_position_embeddings", 512))
        # RoBERTa counts positions from padding_idx + 1.
        return (
            positions
            if "roberta" not in self.family
            else positions - int(self.config.get("pad_token_id", 1)) - 1
        )

    def weight_files(self) -> list[Path]:
        """The files of the weights, safetensors before pickles, in the order of their index."""
        for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
            single, index = self.network / f"{stem}.{suffix}", self.network / f"{stem}.{suffix}.index.json"
            if single.is_file():
                return [single]
            if index.is_file():
                return [_inside(self.network, name) for name in _shards(index)]
        raise BadInput(
            f"{self.network} holds no weights: no model.safetensors or pytorch_model.bin, nor their index"
        )

    def weights_hash(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the weight files: a local folder's revision."""
        digest = hashlib.sha256()
        for path in self.weight_files():
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()[:16]

    def task(self) -> Task:
        """What the checkpoint is for: by modules.json where there is one, else by its architecture."""
        if self.decoder:
            return self._language_task()
        if self.modules:
            return self._sentence_task()
        if self.architecture.endswith("ForSequenceClassification"):
            return self._classification_task()
        if self.architecture and not self.architecture.endswith(_EMBEDDING_ARCHITECTURES):
            raise UnsupportedModel(
                f"{self.folder}: architecture {self.architecture} is not supported; {SUPPORTED}"
            )
        return Task("embedding", max_length=self._max_length())

    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, without padding and truncation.

        tokenizer.json if there is one, else what transformers makes of the vocabulary files. Raises BadInput
        for a tokenizer with ids beyond the embedding table.
        """
        from tokenizers import Tokenizer, normalizers

        path = self.network / "tokenizer.json"
        if path.is_file():
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:  # the Rust side raises plain Exception
                raise BadInput(f"{path} cannot be read as a tokenizer: {error}") from error
        else:
            tokenizer = self._converted_tokenizer()
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        rows = int(self.config.get("vocab_size", 0))
        if highest >= rows:
            raise BadInput(
                f"{self.folder}: the tokenizer does not match the model: it has a token with id {highest}, "
                f"the embedding table has {rows} rows; take the tokenizer that the model was trained with"
            )
        if self._sentence_settings().get("do_lower_case"):
            given = [tokenizer.normalizer] if tokenizer.normalizer else []
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *given])
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _converted_tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise MissingExtra(
                "transformers", "fit", "to convert a tokenizer without tokenizer.json"
            ) from error
        files = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model")
        if not any((self.network / name).is_file() for name in files):
            raise BadInput(
                f"{self.network} holds no tokenizer: expected tokenizer.json or one of {', '.join(files)}"
            )
        try:
            slow = AutoTokenizer.from_pretrained(
                str(self.network), local_files_only=True, trust_remote_code=False
            )
            return slow.backend_tokenizer
        except Exception as error:
            raise UnsupportedModel(
                f"{self.network}: the tokenizer cannot be converted ({error}); save it once with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(folder), which writes tokenizer.json"
            ) from error

    def _sentence_settings(self) -> dict[str, Any]:
        for name in _SENTENCE_CONFIGS if self.modules else ():
            if (self.network / name).is_file():
                return read_json(self.network / name)
        return {}

    def _max_length(self) -> int:
        tokenizer_config = self.network / "tokenizer_config.json"
        limits: list[Any] = [self.positions, self._sentence_settings().get("max_seq_length")]
        if tokenizer_config.is_file():
            limits.append(read_json(tokenizer_config).get("model_max_length"))
        length = int(min(limit for limit in limits if isinstance(limit, int | float) and limit == limit))
        if length < 3:  # two special tokens and one word
            raise BadInput(f"{self.folder}: a maximum length of {length} tokens leaves no room for text")
        return length

    def _sentence_task(self) -> Task:
        kinds = [module["type"].rpartition(".")[2] for module in self.modules]
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
            raise UnsupportedModel(
                f"{self.folder}: sentence-transformers modules {', '.join(kinds)} are not supported; "
                "supported: Transformer, Pooling and, last, Normalize"
            )
        settings = self._sentence_settings()
        if settings.get("transformer_task", "feature-extraction") != "feature-extraction":
            raise UnsupportedModel(
                f"{self.folder}: transformer task {settings['transformer_task']!r}; {SUPPORTED}"
            )
        overall = self.folder / "config_sentence_transformers.json"
        stored = read_json(overall) if overall.is_file() else {}
        if stored.get("default_prompt_name"):
            raise UnsupportedModel(
                f"{self.folder}: default prompt {stored['default_prompt_name']!r} is not supported; clear "
                "default_prompt_name in config_sentence_transformers.json and write the prompt into each text"
            )
        pooling = _pooling(
            read_json(_inside(self.folder, self.modules[1]["path"]) / "config.json"), self.folder
        )
        return Task("embedding", pooling, normalize="Normalize" in kinds, max_length=self._max_length())

    def _language_task(self) -> Task:
        if self.architecture and not self.architecture.endswith("ForCausalLM"):
            raise UnsupportedModel(
                f"{self.folder}: architecture {self.architecture} is not supported; {SUPPORTED}"
            )
        template, special = chat_template(self.network)
        return Task(
            "language",
            max_length=self._max_length(),
            ends=end_tokens(self.network, self.config),
            template=template,
            special_tokens=special,
        )

    def _classification_task(self) -> Task:
        names = self.config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        try:
            labels = tuple(str(names[key]) for key in sorted(names, key=int))
        except (ValueError, TypeError, LookupError) as error:
            raise BadInput(f"{self.folder}: id2label in config.json does not number its labels") from error
        problem = self.config.get("problem_type")
        if len(labels) < 2 or problem in ("regression", "multi_label_classification"):
            raise UnsupportedModel(
                f"{self.folder}: {problem or 'a single score'} is not supported; "
                f"classification means one label of several; {SUPPORTED}"
            )
        return Task("classification", max_length=self._max_length(), labels=labels)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look over a folder. Raises BadInput, UnsupportedModel or UnsafeModel; reads no weights yet."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give the folder that holds config.json and the weights")
    if (folder / "ondevice.json").is_file():
        raise UnsupportedModel(
            f"{folder} is a finished artifact, not a checkpoint; run it with ondevice.open()"
        )
    modules = _modules(folder)
    network = _inside(folder, modules[0]["path"]) if modules else folder
    if not (network / "config.json").is_file():
        raise BadInput(f"{network} holds no config.json: it is not a Hugging Face checkpoint")
    config = read_json(network / "config.json")
    tokenizer_config = network / "tokenizer_config.json"
    for path, fields in (
        (network / "config.json", config),
        (tokenizer_config, read_json(tokenizer_config) if tokenizer_config.is_file() else {}),
    ):
        if fields.get("auto_map"):
            raise UnsafeModel(
                f"{path} asks for Python code from the checkpoint (auto_map), which is never run"
            )
    _check_config(folder, config)
    return Checkpoint(folder, network, config, tuple(modules), _licence(folder, config))


def chat_template(folder: Path) -> tuple[str, dict[str, str]]:
    """The chat template of a Hugging Face folder, from chat_template.jinja or tokenizer_config.json, "" where there
    is none; and the special tokens that it may name (bos_token, eos_token, …)."""
    path, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    fields = read_json(config) if config.is_file() else {}
    source = path.read_text(encoding="utf-8") if path.is_file() else fields.get("chat_template")
    if isinstance(source, list):  # several by name
        source = next((each["template"] for each in source if each.get("name") == "default"), None)
    tokens = {
        key: str(value["content"] if isinstance(value, dict) else value)
        for key, value in fields.items()
        if key.endswith("_token") and isinstance(value, str | dict) and value
    }
    return str(source or ""), tokens


def end_tokens(folder: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """The tokens that end a text, by config.json and generation_config.json."""
    generation = folder / "generation_config.json"
    ends: set[int] = set()
    for fields in (config, read_json(generation) if generation.is_file() else {}):
        end = fields.get("eos_token_id")
        ends |= {int(each) for each in (end if isinstance(end, list) else [end]) if each is not None}
    return tuple(sorted(ends))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises BadInput if it is missing, not JSON or not an object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} holds a {type(value).__name__}, expected an object")
    return cast(dict[str, Any], value)


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    if config.get("model_type") not in (*ENCODERS, *DECODERS):
        raise UnsupportedModel(
            f"{folder}: model type {config.get('model_type')!r} is not supported; {SUPPORTED}"
        )
    decoder = config["model_type"] in DECODERS
    for field, allowed in (
        ("is_decoder", (None, decoder)),
        ("add_cross_attention", (None, False)),
        ("position_embedding_type", (None, "absolute")),
        ("quantization_config", (None, {})),
    ):
        if config.get(field) not in allowed:
            raise UnsupportedModel(f"{folder}: {field}={config[field]!r} is not supported; {SUPPORTED}")
    counts = {"vocab_size": None, "max_position_embeddings": 0} | ({} if decoder else {"pad_token_id": 0})
    for field, default in counts.items():  # the vocabulary has none
        value = config.get(field, default)
        if not isinstance(value, int) or value < 0:
            raise BadInput(f"{folder}: {field} in config.json is {value!r}, not a count")
    name = "rms_norm_eps" if decoder else "layer_norm_eps"
    epsilon = config.get(name, 1e-6)
    if not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise BadInput(f"{folder}: {name} in config.json is {epsilon!r}, not a small number above 0")


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        entries = [{"type": str(module["type"]), "path": str(module["path"])} for module in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"{path} is not a list of sentence-transformers modules: {error}") from error
    for entry in entries:
        if not entry["type"].startswith("sentence_transformers."):
            raise UnsafeModel(f"{path} asks for Python code of its own ({entry['type']}), which is never run")
    if not entries:
        raise BadInput(f"{path} lists no modules")
    return entries


def _pooling(config: dict[str, Any], folder: Path) -> Pooling:
    mode = config.get("pooling_mode")  # sentence-transformers 6; before, one flag a mode
    flags = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    named = {f"pooling_mode_{flag}": mode for mode, flag in flags.items()}
    modes = (
        (mode if isinstance(mode, list) else [mode])
        if mode is not None
        else [named.get(key, key) for key, on in config.items() if key.startswith("pooling_mode_") and on]
    )
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in _POOLINGS:
        raise UnsupportedModel(
            f"{folder}: pooling {' + '.join(map(str, modes)) or 'unnamed'} is not supported; "
            f"supported: one of {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[modes[0]]


def _inside(folder: Path, relative: str) -> Path:
    # A hub snapshot is links into its cache, so only the name is judged, not where a link ends.
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise UnsafeModel(f"{folder} points outside itself: {relative!r}")
    return folder / relative


def _shards(index: Path) -> Iterator[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise BadInput(f"{index} has no weight_map")
    return iter(sorted({str(name) for name in names.values()}))


def _licence(folder: Path, config: dict[str, Any]) -> str:
    if isinstance(config.get("license"), str):
        return str(config["license"])
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:[ \t]*\n?[ \t]*-?[ \t]*([^\n]+)$", front[1], re.MULTILINE) if front else None
    return found[1].strip().strip("\"'") if found else "unknown"
