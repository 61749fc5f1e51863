"""Other engines, run on the original model for comparison: each in float32 and in the 8-bit form it offers itself.

Knows what each variant needs, writes the files that it reads, and opens it as a session. Measures nothing.

    torch        float32; int8-dynamic: torch.ao.quantization.quantize_dynamic, linear layers
    onnxruntime  float32; int8-dynamic: onnxruntime.quantization.quantize_dynamic, a scale an output channel
    openvino     float32; bfloat16: its precision hint; int8-static: NNCF's quantisation for transformers
    mlx          float32

ONNX Runtime and OpenVINO read one float32 graph (`backends.onnxruntime.graph`); it runs no slower there than what
torch.onnx.export writes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.artifact import Artifact, Contents, write
from ondevice.errors import BadInput, MissingExtra
from ondevice.models.tasks import Task

if TYPE_CHECKING:
    from ondevice.backends.session import Session
    from ondevice.models.model import Model

# (engine, variant) -> (packages, the extra that installs them)
VARIANTS: dict[tuple[str, str], tuple[tuple[str, ...], str]] = {
    ("torch", "float32"): (("torch", "transformers"), "fit"),
    ("torch", "int8-dynamic"): (("torch", "transformers"), "fit"),
    ("onnxruntime", "float32"): (("onnx", "onnxruntime"), "onnx"),
    ("onnxruntime", "int8-dynamic"): (("onnx", "onnxruntime"), "onnx"),
    ("openvino", "float32"): (("onnx", "openvino"), "peers"),
    ("openvino", "bfloat16"): (("onnx", "openvino"), "peers"),
    ("openvino", "int8-static"): (("onnx", "openvino", "nncf"), "peers"),
    ("mlx", "float32"): (("mlx",), "mlx"),
}
PEERS = tuple(dict.fromkeys(engine for engine, _ in VARIANTS))


def missing(engine: str, variant: str) -> MissingExtra | None:
    """What has to be installed for a variant; None where it can run. Imports nothing."""
    packages, extra = VARIANTS[engine, variant]
    absent = next((package for package in packages if find_spec(package) is None), None)
    return None if absent is None else MissingExtra(absent, extra, f"to compare with {engine} {variant}")


def prepare(
    model: Model,
    variants: Sequence[tuple[str, str]],
    calibration: Sequence[str],
    folder: Path,
    *,
    tokens: int,
) -> None:
    """Write into a folder what `open_peer` reads for these variants.

    calibration: texts for the static quantisation, cut to `tokens` tokens.
    """
    from ondevice.layers.store import to_stored

    contents = Contents(
        model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module),
        provenance={"name": model.source.name, "revision": model.source.revision}, licence=model.source.licence,
    )  # fmt: skip
    original = write(folder / "original", contents)
    if ("torch", "int8-dynamic") in variants:
        import torch

        torch.save(_dynamic(model).module.state_dict(), folder / "torch-int8-dynamic.pt")
    if any(engine in ("onnxruntime", "openvino") for engine, _ in variants):
        from ondevice.backends.onnxruntime.graph import encoder_graph

        graph = encoder_graph(original.tensors, original.config, model.task)
        folder.joinpath("float32.onnx").write_bytes(graph.SerializeToString())
    if ("onnxruntime", "int8-dynamic") in variants:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            folder / "float32.onnx",
            folder / "int8-dynamic.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    if any(engine == "openvino" for engine, _ in variants):
        from ondevice.backends.peers.openvino import convert, quantize_static

        convert(folder / "float32.onnx", folder / "float32.xml")
        if ("openvino", "int8-static") in variants:
            token_ids = [ids[:tokens] for ids in model.tokens(calibration)]
            quantize_static(folder / "float32.onnx", folder / "int8-static.xml", token_ids)


def open_peer(folder: Path, engine: str, variant: str, threads: int) -> Session:
    """A session on what `prepare` wrote. threads: as the engine understands them; MLX has no such setting."""
    if (engine, variant) not in VARIANTS:
        raise BadInput(f"no peer {engine} {variant}; there are: {', '.join(map(' '.join, VARIANTS))}")
    original = Artifact(folder / "original")
    if engine == "torch":
        from ondevice.backends.torch import TorchSession, read_model

        model = read_model(original)
        return TorchSession(_dynamic(model) if variant == "int8-dynamic" else model, threads)
    if engine == "mlx":
        from ondevice.backends.mlx import open_artifact

        return open_artifact(original)
    from tokenizers import Tokenizer

    tokenizer, task = Tokenizer.from_str(original.tokenizer_json), Task.from_json(original.task)
    if engine == "onnxruntime":
        from ondevice.backends.onnxruntime import OnnxSession

        return OnnxSession(folder / f"{variant}.onnx", original.config, tokenizer, task, threads)
    from ondevice.backends.peers.openvino import OpenVinoSession

    path = folder / ("int8-static.xml" if variant == "int8-static" else "float32.xml")
    return OpenVinoSession(path, original.config, tokenizer, task, threads, half=variant == "bfloat16")


def storage_bytes(folder: Path, engine: str, variant: str) -> int:
    """Bytes of what a user of this variant keeps: the model's file, its configuration and its tokenizer."""
    original = folder / "original"
    files: list[Path] = [original / "config.json", original / "tokenizer.json"]
    if variant == "int8-dynamic":
        files.append(folder / {"torch": "torch-int8-dynamic.pt", "onnxruntime": "int8-dynamic.onnx"}[engine])
    elif engine == "openvino":
        name = "int8-static" if variant == "int8-static" else "float32"
        files += [folder / f"{name}.xml", folder / f"{name}.bin"]
    else:
        files.append(folder / "float32.onnx" if engine == "onnxruntime" else original / "model.safetensors")
    return sum(file.stat().st_size for file in files)


def _dynamic(model: Model) -> Model:
    """Linear layers with int8 weights, their inputs quantised as they come, by torch's own means."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends its successor, which is no faster on a CPU
        quantize: Any = torch.ao.quantization.quantize_dynamic
        return dataclasses.replace(model, module=quantize(model.module, {torch.nn.Linear}, dtype=torch.qint8))


__all__ = ["PEERS", "VARIANTS", "missing", "open_peer", "prepare", "storage_bytes"]
