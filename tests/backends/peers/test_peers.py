"""Peers run the original model: float32 ones as torch does, 8-bit ones near it, bytes counted from their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from ondevice.backends import peers
from ondevice.errors import BadInput, MissingExtra
from ondevice.models.load import load

TEXTS = [
    "open a file and read its lines",
    "the lazy dog",
    "two tables and five chairs",
    "the value of a number",
]


def packages(*names: str) -> None:
    for name in names:
        pytest.importorskip(name, reason="needs the peers: pip install 'ondevice-ml[peers,mlx]'")


@pytest.fixture
def prepared(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    def make(head: str, variants: list[tuple[str, str]]) -> tuple[Any, Path]:
        model = load(tiny_checkpoint("bert", head, hidden_size=64))
        peers.prepare(model, variants, TEXTS, tmp_path, tokens=16)
        return model, tmp_path

    return make


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_every_variant_stays_near_the_original(
    head: str, prepared: Callable[..., tuple[Any, Path]], sentences: list[str]
) -> None:
    packages("onnx", "onnxruntime", "openvino", "nncf", "mlx.core")
    model, folder = prepared(head, list(peers.VARIANTS))
    expected = model.predict(sentences)
    for engine, variant in peers.VARIANTS:
        assert peers.missing(engine, variant) is None
        with peers.open_peer(folder, engine, variant, threads=1) as session:
            ours = session.embed(sentences) if head == "Model" else session.logits(model.tokens(sentences))
            again = session.hidden([[5, 6, 7], [5, 6]]) if head == "Model" else []
        assert [len(states) for states in again] in ([3, 2], [])
        if variant == "float32":
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-4, err_msg=f"{engine} {variant}")
        else:
            cosine = (
                (ours * expected).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(expected, axis=1)
            )
            assert np.median(cosine) > 0.8, (engine, variant)  # random weights, four calibration texts
            assert not np.array_equal(ours, expected), (engine, variant)


def test_the_bytes_of_8_bits_are_fewer(prepared: Callable[..., tuple[Any, Path]]) -> None:
    packages("onnx", "onnxruntime")
    _, folder = prepared("Model", [("torch", "int8-dynamic"), ("onnxruntime", "int8-dynamic")])
    for engine in ("torch", "onnxruntime"):
        sizes = [peers.storage_bytes(folder, engine, variant) for variant in ("int8-dynamic", "float32")]
        assert sizes[0] < sizes[1]


def test_what_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "nncf" else object())
    problem = peers.missing("openvino", "int8-static")
    assert isinstance(problem, MissingExtra)
    assert "pip install 'ondevice-ml[peers]'" in str(problem)
    assert peers.missing("openvino", "float32") is None


def test_unknown_peers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="torch int8-dynamic"):
        peers.open_peer(tmp_path, "torch", "float8", threads=1)
