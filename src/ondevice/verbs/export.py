"""export: a model becomes what other engines read.

    onnx   model.onnx, config.json, tokenizer.json: for ONNX Runtime, weights still quantised
    mlx    model.safetensors in MLX's quantised form, config.json, tokenizer.json
    web    a static page that runs the ONNX model in the browser, with the model
    gguf   model.gguf: a language model for llama.cpp and all that reads its files

Beside them lies ondevice-export.json: where the model came from, its task, plan and licence.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import ondevice
from ondevice.artifact import Artifact
from ondevice.atomic import reserve, writing
from ondevice.errors import BadInput, MissingExtra
from ondevice.models.tasks import Task
from ondevice.verbs.open import language_folder

_PAGE = ("index.html", "encoder.mjs", "wordpiece.mjs")
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_RUNTIME_VERSION = "1.30.0"  # that the page was tested with
_NETWORK = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{_RUNTIME_VERSION}/dist/"


@dataclass(frozen=True)
class ExportResult:
    """What an export wrote. files: name -> bytes. notes: what the reader has to know to use it."""

    folder: Path
    to: str
    files: dict[str, int]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice export --json` prints."""
        return vars(self) | {"folder": str(self.folder), "notes": list(self.notes)}


@dataclass(frozen=True)
class _Given:
    """What only some targets take."""

    onnxruntime_web: Path | None
    type: str | None


def export(
    model: str | Path,
    to: str,
    *,
    out: str | Path,
    overwrite: bool = False,
    onnxruntime_web: str | Path | None = None,
    type: str | None = None,
) -> ExportResult:
    """Write a model for another engine into the folder `out`, whole or not at all.

    model: an artifact; for "gguf" whatever `ondevice.open_language` opens.
    to: "onnx", "mlx", "web" or "gguf". type: for "gguf", of matrices: F32, F16, Q8_0 or Q4_0; None keeps an
        artifact's codes (4 bits and fewer as Q4_0, more as Q8_0) and is F16 elsewhere.
    onnxruntime_web: for "web", the folder of the npm package onnxruntime-web (or the
        `dist` inside it), which is copied so that the page needs no network; None names its address on a public
        network of copies, pinned to one version, in the page.
    Raises BadInput for another `to`, for a model that a target cannot hold, and where `out` exists and overwrite
    is False; MissingExtra where the engine's package is not installed.
    """
    if to not in _TARGETS:
        raise BadInput(f"cannot export to {to!r}; supported: {', '.join(_TARGETS)}")
    if onnxruntime_web is not None and to != "web":
        raise BadInput("onnxruntime_web is of use with to='web' only; leave it out")
    if type is not None and to != "gguf":
        raise BadInput("type is of use with to='gguf' only; leave it out")
    source = (language_folder(model) if to == "gguf" else None) or Path(model)
    given = _Given(Path(onnxruntime_web) if onnxruntime_web is not None else None, type)
    with reserve(out, overwrite=overwrite) as place, writing(place) as fresh:
        notes = _TARGETS[to](source, fresh, given)
        fresh.joinpath("ondevice-export.json").write_text(_about(source, to), encoding="utf-8")
        files = {
            str(path.relative_to(fresh)): path.stat().st_size
            for path in sorted(fresh.rglob("*"))
            if path.is_file()
        }
    return ExportResult(place, to, files, notes)


def _onnx(path: Path, folder: Path, _: _Given) -> tuple[str, ...]:
    source = Artifact(path)
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "onnx", "to export to ONNX") from error
    from ondevice.backends.onnxruntime import encoder_graph

    graph = encoder_graph(source.tensors, source.config, Task.from_json(source.task))
    onnx.checker.check_model(graph, full_check=True)
    folder.joinpath("model.onnx").write_bytes(graph.SerializeToString())
    for name, content in (
        ("config.json", json.dumps(source.config, indent=1)),
        ("tokenizer.json", source.tokenizer_json),
    ):
        folder.joinpath(name).write_text(content, encoding="utf-8")
    return (
        "inputs: input_ids, attention_mask, int64 (batch, tokens); 4-bit weights use com.microsoft operators of "
        "ONNX Runtime",
    )


def _mlx(path: Path, folder: Path, _: _Given) -> tuple[str, ...]:
    from ondevice.backends.mlx.export import write_folder

    write_folder(Artifact(path), folder)
    return ("read it with ondevice.backends.mlx.export.read_folder",)


def _gguf(path: Path, folder: Path, given: _Given) -> tuple[str, ...]:
    from ondevice.backends.gguf.export import write_gguf
    from ondevice.backends.language import is_language_model, read_files

    if not is_language_model(path):
        raise BadInput(
            f"{path} is not a language model of the Llama family, and llama.cpp's files hold these only"
        )
    return write_gguf(read_files(path), folder / "model.gguf", given.type)


def _web(path: Path, folder: Path, given: _Given) -> tuple[str, ...]:
    source = Artifact(path)
    if source.task["kind"] != "embedding":
        raise BadInput(
            "the page compares sentences, so it needs a model for embedding; export to onnx instead"
        )
    _must_be_wordpiece(source.tokenizer_json)
    _onnx(path, folder, given)
    address, note = (
        f"{_NETWORK}{_RUNTIME[0]}",
        f"the page loads ONNX Runtime Web {_RUNTIME_VERSION} from {_NETWORK}",
    )
    if given.onnxruntime_web is not None:
        address, note = f"./onnxruntime-web/{_RUNTIME[0]}", "the page needs no network"
        _copy_runtime(given.onnxruntime_web, folder / "onnxruntime-web")
    page = resources.files("ondevice.backends.onnxruntime").joinpath("page")
    for name in _PAGE:
        text = page.joinpath(name).read_text(encoding="utf-8").replace("@RUNTIME@", address)
        folder.joinpath(name).write_text(text, encoding="utf-8")
    return (note, "open it through a web server: python3 -m http.server --directory FOLDER")


def _must_be_wordpiece(tokenizer: str) -> None:
    document = json.loads(tokenizer)
    kinds = [(document.get(part) or {}).get("type") for part in ("model", "normalizer", "pre_tokenizer")]
    if kinds != ["WordPiece", "BertNormalizer", "BertPreTokenizer"]:
        raise BadInput(
            f"the page knows BERT's WordPiece tokenizer, not {kinds[0]} with {kinds[1]} and {kinds[2]}; export to "
            "onnx instead"
        )


def _copy_runtime(given: Path, folder: Path) -> None:
    places = [given, given / "dist", given / "onnxruntime-web" / "dist"]
    found = next((place for place in places if all((place / name).is_file() for name in _RUNTIME)), None)
    if found is None:
        raise BadInput(
            f"{given} does not hold {', '.join(_RUNTIME)}; give the folder that "
            f"`npm install onnxruntime-web@{_RUNTIME_VERSION}` made: node_modules/onnxruntime-web"
        )
    folder.mkdir()
    for name in _RUNTIME:
        shutil.copyfile(found / name, folder / name)


def _about(path: Path, to: str) -> str:
    about: dict[str, Any] = {"format": to, "ondevice": ondevice.__version__}
    if (path / "ondevice.json").exists():
        source = Artifact(path)
        about |= {
            "artifact": source.fingerprint,
            "task": source.task,
            "provenance": source.provenance,
            "plan": source.plan,
            "licence": source.licence,
        }
    else:
        about["provenance"] = {"name": path.name}
    return json.dumps(about, indent=1, ensure_ascii=False) + "\n"


_Target = Callable[[Path, Path, _Given], tuple[str, ...]]
_TARGETS: dict[str, _Target] = {"onnx": _onnx, "mlx": _mlx, "web": _web, "gguf": _gguf}
