"""The folder for MLX, read back, is held to torch on the artifact; its bits to MLX's own dequantisation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs mlx: pip install 'ondevice-ml[mlx]'")
pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

import mlx.core as mx
from safetensors.numpy import load_file, save_file

from ondevice.backends.mlx.export import read_folder, write_folder
from ondevice.errors import BadInput

Compressed = Callable[..., tuple[Any, Any]]


def test_every_stored_form_agrees_with_torch(
    form: str, compressed: Compressed, sentences: list[str], tmp_path: Path
) -> None:
    model, artifact = compressed(form)
    write_folder(artifact, tmp_path)
    with read_folder(tmp_path, model.task) as session:
        ours = session.embed(sentences)
    expected = model.predict(sentences)
    assert (ours * expected).sum(1).min() > 0.999
    if form not in ("8 bits", "4 bits", "5 bits, groups of 96"):
        np.testing.assert_allclose(ours, expected, atol=2e-3)  # float16 where torch has float32


def test_a_classifier_agrees_with_torch(compressed: Compressed, sentences: list[str], tmp_path: Path) -> None:
    model, artifact = compressed("4 bits, float activations", "roberta", "ForSequenceClassification")
    write_folder(artifact, tmp_path)
    with read_folder(tmp_path, model.task) as session:
        ours = session.logits(model.tokens(sentences))
    np.testing.assert_allclose(ours, model.predict(sentences), rtol=5e-3, atol=2e-2)


@pytest.mark.parametrize("bits", range(1, 9))
def test_mlx_reads_the_weights_that_ours_are(
    bits: int, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    from ondevice.artifact import Contents, write
    from ondevice.compress.quantize.quantize import Quantize
    from ondevice.layers.store import to_stored
    from ondevice.models.load import load

    model = Quantize(bits=bits, method="rtn", smooth=0).apply(load(tiny_checkpoint("bert")))
    contents = Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module))
    write_folder(write(tmp_path / "artifact", contents), tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    forms = json.loads((tmp_path / "config.json").read_text())["quantization"]
    assert len(forms) >= 14  # token types only at 1 bit
    for name, form in forms.items():
        parts = [mx.array(arrays[f"{name}.{leaf}"]) for leaf in ("weight", "scales", "biases")]
        ours = np.array(mx.dequantize(*parts, **form).astype(mx.float32))
        expected = contents.tensors[f"{name}.weight"].to_dense()
        np.testing.assert_allclose(ours, expected, atol=2e-3 * np.abs(expected).max())


def test_what_is_missing_is_named(compressed: Compressed, tmp_path: Path) -> None:
    model, artifact = compressed("4 bits")
    write_folder(artifact, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    name = "encoder.layer.1.output.LayerNorm.bias"
    save_file({key: value for key, value in whole.items() if key != name}, path)
    with pytest.raises(BadInput, match=name):
        read_folder(tmp_path, model.task)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match="export --to mlx"):
        read_folder(tmp_path, model.task)
