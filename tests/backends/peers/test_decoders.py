"""Decoders on other engines: the file of random weights is one model to all of them, and each writes its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch: pip install 'ondevice-ml[fit]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'ondevice-ml[fit]'")
pytest.importorskip("gguf", reason="needs gguf: pip install 'ondevice-ml[gguf]'")

import gguf
import torch
import transformers

from ondevice.backends.peers.decoders import open_decoder
from ondevice.backends.peers.random_gguf import FORMATS, write_random_gguf
from ondevice.errors import BadInput, UnsupportedModel
from ondevice.runtime.weights.shapes import SHAPES

TINY = SHAPES["qwen3-0.6b"] | {
    "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 600, "max_position_embeddings": 256,
}  # fmt: skip
PROMPT = [7, 300, 41, 599, 300, 12]
LLAMA = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
         "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}  # fmt: skip


def by_transformers(path: Path, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens of the file's values, as gguf itself reads them, on transformers in float32."""
    module: Any = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**TINY))
    state = {}
    for tensor in gguf.GGUFReader(path).tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        first, *rest = tensor.name.split(".")
        name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}.get(
            first, f"model.layers.{rest[0]}.{LLAMA.get(rest[1] if len(rest) > 1 else '', '')}.weight"
        )
        state[name] = torch.from_numpy(np.array(values, np.float32))
    absent, unexpected = module.load_state_dict(state, strict=False)
    assert (absent, unexpected) == (["lm_head.weight"], [])
    out = module.eval().generate(
        torch.tensor([prompt]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return list(out[0, len(prompt) :].tolist())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_random_file_is_the_same_model_to_llama_cpp_and_transformers(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install 'ondevice-ml[peers]'")
    path = write_random_gguf(tmp_path / "tiny.gguf", TINY, kind)
    again = write_random_gguf(tmp_path / "again.gguf", TINY, kind)
    assert path.read_bytes() == again.read_bytes()
    decoder: Any = open_decoder("llama.cpp", path, threads=1, context=64)
    # activations are rounded to 8 bits beside quantised weights, so a tie may break the other way later on
    same = 12 if kind == "f16" else 1
    assert decoder.greedy(PROMPT, 12)[:same] == by_transformers(path, PROMPT, 12)[:same]
    generation = decoder.generate(PROMPT, 5)
    assert generation.first > 0
    assert generation.rest > 0
    with pytest.raises(BadInput, match="context"):
        decoder.generate(PROMPT * 100, 2)


def test_openvino_runs_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("openvino_genai", reason="needs openvino-genai: pip install 'ondevice-ml[peers]'")
    from ondevice.backends.peers.openvino_decoder import convert_gguf

    path = write_random_gguf(tmp_path / "tiny.gguf", TINY, "f16")
    graph = convert_gguf(path, tmp_path / "openvino")
    assert path.exists()
    decoder = open_decoder("openvino", graph, threads=1, context=64)
    first = decoder.generate(PROMPT, 12)
    assert first.tokens[:4] == tuple(by_transformers(path, PROMPT, 4))
    assert decoder.generate(PROMPT, 12).tokens == first.tokens  # nothing is kept of the earlier prompt
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadInput, match="cannot read"):
        convert_gguf(tmp_path / "bad.gguf", tmp_path / "bad")


def test_our_runtime_writes_the_same_again() -> None:
    decoder = open_decoder("native", "smollm2-135m", threads=1, context=32)
    first, again = decoder.generate(PROMPT, 5), decoder.generate(PROMPT, 5)
    assert len(first.tokens) == 5
    assert again.tokens == first.tokens
    decoder.close()


def test_what_is_no_engine_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no engine 'mlc'; there are: native"):
        open_decoder("mlc", tmp_path, threads=1, context=8)
    with pytest.raises(BadInput, match="there are: f16, bf16, q8_0, q4_0"):
        write_random_gguf(tmp_path / "a.gguf", TINY, "q4_k")
    with pytest.raises(UnsupportedModel, match="no random GGUF of 'mixtral'"):
        write_random_gguf(tmp_path / "a.gguf", TINY | {"model_type": "mixtral"})
    with pytest.raises(BadInput, match="multiple of 32"):
        write_random_gguf(tmp_path / "a.gguf", TINY | {"hidden_size": 240})


def test_a_folder_is_no_gguf_file(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install 'ondevice-ml[peers]'")
    with pytest.raises(BadInput, match="is no GGUF file"):
        open_decoder("llama.cpp", tmp_path, threads=1, context=8)
