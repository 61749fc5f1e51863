"""A GGUF file of random weights in a published shape: what llama.cpp and its kin read when only speed is asked.

Knows GGUF's names, its block formats and configurations like Hugging Face's. Knows no engine. The file is written
tensor by tensor: a model of billions of weights never stands in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra, UnsupportedModel
from ondevice.runtime.weights.shapes import matrices, vectors

Bytes = npt.NDArray[np.uint8]
FORMATS = ("f16", "bf16", "q8_0", "q4_0")
_ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma": "gemma"}
_FILES = {"f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
_BLOCK = 32  # values of a block of Q8_0 and Q4_0
_PIECE = 2**22  # values that are drawn at once


def write_random_gguf(path: Path, config: Mapping[str, Any], kind: str = "q4_0", *, seed: int = 0) -> Path:
    """Write the file; its path. Every matrix in `kind`, norms of ones, a vocabulary of made-up words.

    config: as in `runtime.weights.shapes`. Raises BadInput for another kind, UnsupportedModel for another family.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "peers", "to write a GGUF file") from error
    if kind not in FORMATS:
        raise BadInput(f"no format {kind!r}; there are: {', '.join(FORMATS)}")
    if config["model_type"] not in _ARCHITECTURES:
        raise UnsupportedModel(
            f"no random GGUF of {config['model_type']!r}; there are: {', '.join(_ARCHITECTURES)}"
        )
    writer = gguf.GGUFWriter(path, _ARCHITECTURES[config["model_type"]])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(getattr(gguf.LlamaFileType, _FILES[kind]))
    # 256 byte letters first, as any byte-level tokenizer has them, and one merge; the rest are words that no text holds
    letters = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]
    words = [*letters, "ab", *(f"word{number}" for number in range(config["vocab_size"] - len(letters)))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words[: config["vocab_size"]])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    tensors = list(_tensors(config))
    raw = getattr(gguf.GGMLQuantizationType, kind.upper())
    for name, shape in tensors:
        if len(shape) == 1:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * shape[0])
        else:
            rows, width = shape[0], _row_bytes(kind, shape[1])
            writer.add_tensor_info(name, (rows, width), np.dtype(np.uint8), rows * width, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, shape in tensors:
        if len(shape) == 1:
            writer.write_tensor_data(np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32))
        else:
            random = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:8]])
            writer.write_tensor_data(_ROWS[kind](random, *shape))
    writer.close()
    return path


def _tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    table = (config["vocab_size"], config["hidden_size"])
    yield "token_embd.weight", table
    for layer in range(config["num_hidden_layers"]):
        for name, size in matrices(dict(config)).items():
            yield f"blk.{layer}.{_NAMES[name]}.weight", size
        for full, length in vectors(dict(config)).items():
            name, _, part = full.rpartition(".")
            yield f"blk.{layer}.{_NAMES[name]}.{part}", (length,)
    yield "output_norm.weight", (config["hidden_size"],)
    if not config["tie_word_embeddings"]:
        yield "output.weight", table


def _row_bytes(kind: str, columns: int) -> int:
    if kind in ("f16", "bf16"):
        return 2 * columns
    if columns % _BLOCK:
        raise BadInput(f"{kind} needs rows of a multiple of {_BLOCK} values, not {columns}")
    return columns // _BLOCK * (34 if kind == "q8_0" else 18)


def _blocks(random: np.random.Generator, rows: int, columns: int, code_bytes: int, spread: float) -> Bytes:
    """A float16 scale before the codes of each block; products keep their input's size."""
    scale = np.float16(1 / (spread * np.sqrt(columns)))
    blocks = np.empty((rows, columns // _BLOCK, 2 + code_bytes), np.uint8)
    blocks[..., :2] = np.array([scale]).view(np.uint8)
    blocks[..., 2:] = np.frombuffer(random.bytes(blocks[..., 2:].size), np.uint8).reshape(
        blocks[..., 2:].shape
    )
    return blocks.reshape(rows, -1)


def _floats(random: np.random.Generator, rows: int, columns: int, brain: bool) -> Bytes:
    out = np.empty(rows * columns, np.uint16)
    for start in range(0, out.size, _PIECE):
        piece = random.standard_normal(min(_PIECE, out.size - start), np.float32) / np.float32(columns**0.5)
        narrow = piece.view(np.uint32) >> 16 if brain else piece.astype(np.float16).view(np.uint16)
        out[start : start + len(piece)] = narrow
    return out.view(np.uint8).reshape(rows, -1)


_ROWS: dict[str, Callable[[np.random.Generator, int, int], Bytes]] = {
    "f16": lambda random, rows, columns: _floats(random, rows, columns, brain=False),
    "bf16": lambda random, rows, columns: _floats(random, rows, columns, brain=True),
    "q8_0": lambda random, rows, columns: _blocks(random, rows, columns, 32, 127 / 3**0.5),
    "q4_0": lambda random, rows, columns: _blocks(random, rows, columns, 16, 8 / 3**0.5),
}
