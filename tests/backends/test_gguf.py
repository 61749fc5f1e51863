"""GGUF files that are written here, opened by llama.cpp and read back; networks by transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ondevice.artifact import StoredTensor
from ondevice.backends.gguf.export import write_gguf
from ondevice.backends.language import Files, LanguageSession, read_files
from ondevice.errors import BadInput, UnsupportedModel
from ondevice.kernels import Kernels
from ondevice.models import zoo
from ondevice.numerics.tiles import quantize_tiled
from ondevice.runtime.chat import ChatTemplate
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.gguf.tokenizer import SPLITS

pytest.importorskip("gguf", reason="needs gguf: pip install 'ondevice-ml[gguf]'")
Open = Callable[[Path], Any]
Network = Callable[[str], Files]
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5,
          "original_max_position_embeddings": 64}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama 3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, biases, linear": {"model_type": "llama", "attention_bias": True, "rope_parameters": {
        "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    "llama, tied, yarn": {"model_type": "llama", "tie_word_embeddings": True, "rope_parameters": {
        "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 32},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {"model_type": "qwen2_moe", "num_experts": 4, "moe_intermediate_size": 32,
                  "num_experts_per_tok": 3, "shared_expert_intermediate_size": 64},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 32,
                  "num_experts_per_tok": 2, "norm_topk_prob": True, "head_dim": 32},
    "olmoe": {"model_type": "olmoe", "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
}  # fmt: skip
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 1,
         "pad_token_id": 1}  # fmt: skip
PROMPT = np.random.default_rng(0).integers(2, 300, 60).tolist()
TEXTS = [
    "the quick brown fox jumps over 1234567 lazy dogs, isn't it?",
    "naïve café … 字字 and größer  spaces\n\n\tline\r\n we'll SEE",
    "def read(path): return open(path)  # 3.14",
]


def byte_level(split: tuple[tuple[str, ...], bool, bool], size: int = 400) -> Tokenizer:
    """BPE over bytes, trained on a few texts. split: as in `SPLITS`."""
    patterns, digits, composed = split
    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    steps += [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not patterns))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.normalizer = normalizers.NFC() if composed else None
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def pieces() -> Tokenizer:
    """As SentencePiece's BPE, with a token for every byte."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    named = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=named)
    trained.train_from_iterator([text.replace("字", "") for text in TEXTS * 3], trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Tokenizer(
        models.BPE(
            model["vocab"],
            [tuple(pair) for pair in model["merges"]],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = trained.normalizer
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def tiny(tokenizer: Tokenizer, **config: Any) -> Files:
    """A random decoder of one layer with this tokenizer."""
    settings: dict[str, Any] = {
        "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "head_dim": 16,
        "num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    settings |= config
    hidden, wide, head = (settings[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    rng, rows = np.random.default_rng(1), tokenizer.get_vocab_size()
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (4 * head, hidden), "self_attn.k_proj": (2 * head, hidden),
        "self_attn.v_proj": (2 * head, hidden), "self_attn.o_proj": (hidden, 4 * head),
        "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shapes = {f"model.layers.0.{name}.weight": shape for name, shape in shapes.items()}
    shapes |= {"model.embed_tokens.weight": (rows, hidden), "model.norm.weight": (hidden,)}
    tensors = {
        name: StoredTensor.dense(rng.standard_normal(shape).astype(np.float32) * np.float32(0.2))
        for name, shape in shapes.items()
    }
    return Files(settings, tensors, tokenizer, lambda: None, frozenset({1}))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Files]:
    """A tiny network of a family, as transformers writes it."""

    @cache
    def make(family: str) -> Files:
        config = transformers.AutoConfig.for_model(**(SIZES | FAMILIES[family] | {"vocab_size": 400}))
        torch.manual_seed(5)
        module = transformers.AutoModelForCausalLM.from_config(config)
        for name, parameter in module.named_parameters():
            spread = 0.3 if "norm" in name or "bias" in name else 0.12
            parameter.data = (parameter.data + spread * torch.randn(parameter.shape)).half().float()
        folder = tmp_path_factory.mktemp("network")
        module.save_pretrained(folder)
        byte_level(SPLITS["gpt-2"]).save(str(folder / "tokenizer.json"))
        return read_files(folder)

    return make


def ours(files: Files, prompt: list[int]) -> np.ndarray:
    decoder = Decoder(files.tensors, files.config, Kernels(1), cache_dtype="float32")
    [logits] = decoder.step([(decoder.cache.sequence(), prompt)])
    spread = logits[0] - logits[0].max()
    return np.asarray(spread - np.log(np.exp(spread).sum()))


def exactly(files: Files) -> Files:
    """The same with the values that the file has, in float32."""
    tensors = {name: StoredTensor.dense(value.to_dense()) for name, value in files.tensors.items()}
    return Files(files.config, tensors, files.tokenizer, files.template, files.ends)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_means_the_same_to_llama_cpp(
    family: str, network: Network, llama_cpp: Open, tmp_path: Path
) -> None:
    files, path = network(family), tmp_path / "model.gguf"
    write_gguf(files, path, "F32")
    back = read_files(path)
    theirs = llama_cpp(path).logprobs(PROMPT, back.tokenizer)
    tolerance = 2e-3 if family == "gemma" else 2e-5  # llama.cpp takes GELU from a table in float16
    np.testing.assert_allclose(ours(back, PROMPT), theirs, atol=tolerance)
    np.testing.assert_allclose(ours(back, PROMPT), ours(files, PROMPT), atol=2e-5)


@pytest.mark.parametrize("family", ["llama 3", "qwen3_moe"])
@pytest.mark.parametrize("type_", ["Q8_0", "Q4_0"])
def test_quantised_files_agree_to_their_noise(
    family: str, type_: str, network: Network, llama_cpp: Open, tmp_path: Path
) -> None:
    files, path = network(family), tmp_path / "model.gguf"
    write_gguf(files, path, type_)
    back = read_files(path)
    exact, theirs, got = (
        ours(exactly(back), PROMPT),
        llama_cpp(path).logprobs(PROMPT, back.tokenizer),
        ours(back, PROMPT),
    )
    assert {value.format["kind"] for name, value in back.tensors.items() if "_proj" in name} == {"tiles"}
    # both round what flows between layers to 8 bits; ours also rounds what each row is scaled by
    if type_ == "Q8_0":
        assert distance(got, exact) < 2 * distance(theirs, exact)
        assert distance(got, theirs) < 0.1
    else:
        assert distance(got, theirs) < distance(exact, ours(files, PROMPT)) / 4


@pytest.mark.parametrize("type_", ["Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "BF16"])
def test_files_of_other_quantisers_agree_with_llama_cpp(type_: str, llama_cpp: Open, tmp_path: Path) -> None:
    """Blocks of random codes: only their scales are what a quantiser would write."""
    import gguf

    kind, path, rng = gguf.GGMLQuantizationType[type_], tmp_path / "model.gguf", np.random.default_rng(3)
    tokenizer, (values, size) = byte_level(SPLITS["gpt-2"]), gguf.GGML_QUANT_SIZES[kind]
    settings = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    write_gguf(tiny(tokenizer, **settings), path, "F32")  # its fields, norms and shapes
    plain, writer = gguf.GGUFReader(path), gguf.GGUFWriter(tmp_path / "packed.gguf", "llama")
    _copy_fields(plain, writer)
    for tensor in plain.tensors:
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, tensor.data)
        elif type_ == "BF16":
            writer.add_tensor(tensor.name, gguf.quants.quantize(tensor.data, kind), raw_dtype=kind)
        else:
            rows, columns = tensor.data.shape
            raw = rng.integers(0, 256, (rows, columns // values, size), np.uint8)
            halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q5_0": (0,)}.get(type_, (0, 2))
            spread = {
                "Q3_K": 0.001,
                "Q5_0": 0.008,
                "Q6_K": 0.0001,
                "Q2_K": 0.008,
                "Q4_1": 0.008,
                "Q5_1": 0.008,
            }.get(type_, 0.0005)
            for at in halves:
                scales = rng.uniform(0.5, 1.0, raw.shape[:2]) * spread
                raw[:, :, at : at + 2] = scales.astype(np.float16)[:, :, None].view(np.uint8)
            writer.add_tensor(tensor.name, raw.reshape(rows, -1), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    back = read_files(tmp_path / "packed.gguf")
    exact = ours(exactly(back), PROMPT)
    theirs, got = llama_cpp(tmp_path / "packed.gguf").logprobs(PROMPT, tokenizer), ours(back, PROMPT)
    assert exact.std() > 0.05
    assert distance(theirs, exact) < 0.05 * exact.std()
    assert distance(got, exact) < 0.05 * exact.std()


def _copy_fields(source: Any, writer: Any) -> None:
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=field.types[-1])


def test_greedy_tokens_of_the_shipped_model_are_those_of_llama_cpp(llama_cpp: Open, tmp_path: Path) -> None:
    folder, path = zoo.locate("reference-lm"), tmp_path / "model.gguf"
    write_gguf(read_files(folder), path)
    engine = llama_cpp(path)
    with LanguageSession.open(folder, threads=1) as before, LanguageSession.open(path, threads=1) as after:
        for text in TEXTS:
            ids = before.tokenizer.encode(text).ids
            assert after.tokenizer.encode(text).ids == engine.tokens(text) == ids
            want = [piece.token for piece in before.generate(text, limit=40)]
            assert [piece.token for piece in after.generate(text, limit=40)] == want
            assert engine.greedy(ids, 40)[: len(want)] == want


@pytest.mark.parametrize("type_, most", [("Q8_0", 0.005), ("Q4_0", 0.015)])
def test_the_shipped_model_diverges_little(type_: str, most: float, llama_cpp: Open, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(read_files(zoo.locate("reference-lm")), path, type_)
    back, engine, found = read_files(path), llama_cpp(path), []
    for text in (
        "The file is read",
        "import os\n\ndef main(",
        "Return a list of",
        "class Node:\n    def __init__",
    ):
        ids = back.tokenizer.encode(text).ids
        theirs, got = engine.logprobs(ids, back.tokenizer), ours(back, ids)
        found.append(np.sum(np.exp(theirs) * (theirs - got)))
    assert np.mean(found) < most


def test_codes_in_tiles_are_kept(llama_cpp: Open, tmp_path: Path) -> None:
    files, path = tiny(byte_level(SPLITS["gpt-2"])), tmp_path / "model.gguf"
    tensors, bits = dict(files.tensors), iter([2, 3, 4, 5, 6, 8, 4])
    for name in [name for name in tensors if "_proj" in name]:
        tiles = quantize_tiled(tensors[name].array, next(bits))
        kind = {
            "kind": "tiles",
            "rows": tiles.rows,
            "columns": tiles.columns,
            "bits": tiles.bits,
            "group_size": 32,
        }
        tensors[name] = StoredTensor(kind | {"activations": "float"}, tiles.to_bytes())
    packed = Files(files.config, tensors, files.tokenizer, files.template, files.ends)
    notes = write_gguf(packed, path)
    assert notes == ("matrices: 1 F16, 4 Q4_0, 3 Q8_0",)
    back = read_files(path)
    for name, tensor in tensors.items():  # nothing but scales is rounded, to float16
        np.testing.assert_allclose(back.tensors[name].to_dense(), tensor.to_dense(), rtol=1e-3, atol=1e-7)
        if tensor.format.get("bits") == 4:  # and as tiles they come back so
            again = StoredTensor(dict(back.tensors[name].format), back.tensors[name].array)
            np.testing.assert_allclose(again.to_dense(), tensor.to_dense(), rtol=1e-3, atol=1e-7)
    llama_cpp(path).logprobs([5, 6, 7], back.tokenizer)


def test_low_rank_and_input_scales_are_multiplied_out(llama_cpp: Open, tmp_path: Path) -> None:
    files, path, rng = tiny(byte_level(SPLITS["gpt-2"])), tmp_path / "model.gguf", np.random.default_rng(2)
    tensors, name = dict(files.tensors), "model.layers.0.self_attn"
    del tensors[f"{name}.q_proj.weight"]
    for part, shape in (("down", (16, 64)), ("up", (64, 16))):
        values = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        tensors[f"{name}.q_proj.{part}.weight"] = StoredTensor.dense(values)
    scale = rng.uniform(0.5, 2, 64).astype(np.float32)
    tensors["model.layers.0.mlp.up_proj.input_scale"] = StoredTensor.dense(scale)
    changed = Files(files.config, tensors, files.tokenizer, files.template, files.ends)
    write_gguf(changed, path, "F32")
    np.testing.assert_allclose(
        llama_cpp(path).logprobs(PROMPT, files.tokenizer), ours(changed, PROMPT), atol=1e-4
    )


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "olmo"])
def test_texts_become_the_tokens_of_llama_cpp(split: str, llama_cpp: Open, tmp_path: Path) -> None:
    files, path = tiny(byte_level(SPLITS[split])), tmp_path / "model.gguf"
    write_gguf(files, path)
    engine, back = llama_cpp(path), read_files(path)
    for text in [*TEXTS, "x" * 50, "</s> a  b", "１２３ ½ e\u0301", "'S 'll 12 345 6789\n \n  x"]:
        ids = files.tokenizer.encode(text).ids
        assert back.tokenizer.encode(text).ids == ids
        if "e\u0301" not in text:  # llama.cpp leaves such characters apart
            assert engine.tokens(text) == ids
    assert back.tokenizer.decode(ids) == files.tokenizer.decode(ids)


def test_pieces_become_those_of_llama_cpp(llama_cpp: Open, tmp_path: Path) -> None:
    files, path = tiny(pieces(), bos_token_id=1, eos_token_id=2), tmp_path / "model.gguf"
    write_gguf(files, path)
    engine, back = llama_cpp(path), read_files(path)
    for text in [*TEXTS, "", " ", "  two", "😀 字"]:
        ids = back.tokenizer.encode(text).ids
        assert ids == files.tokenizer.encode(text).ids
        assert engine.tokens(text) == ids
        assert back.tokenizer.decode(ids) == text


def test_a_template_and_what_ends_a_text_go_along(tmp_path: Path) -> None:
    source = "{% for m in messages %}{{ bos_token }}{{ m.content }}{% endfor %}"
    files, path = tiny(byte_level(SPLITS["qwen2"]), eos_token_id=[1, 5]), tmp_path / "model.gguf"
    template = ChatTemplate(source, {"bos_token": "<s>"})
    write_gguf(Files(files.config, files.tensors, files.tokenizer, lambda: template, frozenset({1, 5})), path)
    back = read_files(path)
    found, messages = back.template(), [{"role": "user", "content": "hello"}]
    assert found is not None
    assert found.render(messages) == template.render(messages) == "<s>hello"
    assert back.ends == {1, 5}


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    files, path = tiny(byte_level(SPLITS["gpt-2"])), tmp_path / "model.gguf"

    def write(config: dict[str, Any] | None = None, tensors: Any = None, tokenizer: Any = None) -> None:
        given = (files.config | (config or {}), tensors or files.tensors, tokenizer or files.tokenizer)
        write_gguf(Files(*given, files.template, files.ends), path)

    with pytest.raises(UnsupportedModel, match="'bert' has no GGUF form"):
        write({"model_type": "bert"})
    with pytest.raises(UnsupportedModel, match="has no place"):
        write(
            tensors=dict(files.tensors)
            | {"model.layers.0.mlp.extra.weight": files.tensors["model.norm.weight"]}
        )
    with pytest.raises(UnsupportedModel, match="rotary scaling 'longrope'"):
        write({"rope_parameters": {"rope_type": "longrope"}})
    with pytest.raises(UnsupportedModel, match="splits a text"):
        write(tokenizer=byte_level((("[a-z]+",), False, False)))
    with pytest.raises(BadInput, match="there are: F32, F16, Q8_0, Q4_0"):
        write_gguf(files, path, "Q2_K")
