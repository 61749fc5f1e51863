"""Decoders as they are published on the hub: their sizes, by name.

Knows configurations. Knows no weights: `random.py` and `gguf` files of random weights are made from these.
"""

from __future__ import annotations

from typing import Any

from ondevice.errors import BadInput

_LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192, "rope_theta": 500000.0}  # fmt: skip


def _shape(
    family: str, layers: int, hidden: int, inner: int, heads: int, cached: int, head: int, words: int, tied: bool,
    *, positions: int, theta: float, epsilon: float = 1e-5, rotary: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model_type": family, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
        "num_attention_heads": heads, "num_key_value_heads": cached, "head_dim": head, "vocab_size": words,
        "tie_word_embeddings": tied, "max_position_embeddings": positions, "rms_norm_eps": epsilon,
        "rope_parameters": rotary or {"rope_type": "default", "rope_theta": theta},
    }  # fmt: skip


SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _shape("llama", 30, 576, 1536, 9, 3, 64, 49152, True, positions=8192, theta=1e5),
    "smollm2-360m": _shape("llama", 32, 960, 2560, 15, 5, 64, 49152, True, positions=8192, theta=1e5),
    "qwen2.5-0.5b": _shape(
        "qwen2", 24, 896, 4864, 14, 2, 64, 151936, True, positions=32768, theta=1e6, epsilon=1e-6
    ),
    "qwen3-0.6b": _shape(
        "qwen3", 28, 1024, 3072, 16, 8, 128, 151936, True, positions=40960, theta=1e6, epsilon=1e-6
    ),
    "tinyllama-1.1b": _shape("llama", 22, 2048, 5632, 32, 4, 64, 32000, False, positions=2048, theta=1e4),
    "llama-3.2-1b": _shape(
        "llama", 16, 2048, 8192, 32, 8, 64, 128256, True, positions=131072, theta=5e5, rotary=_LLAMA3
    ),
    "qwen2.5-1.5b": _shape(
        "qwen2", 28, 1536, 8960, 12, 2, 128, 151936, True, positions=131072, theta=1e6, epsilon=1e-6
    ),
    "smollm2-1.7b": _shape("llama", 24, 2048, 8192, 32, 32, 64, 49152, True, positions=8192, theta=1.3e5),
    "qwen3-1.7b": _shape(
        "qwen3", 28, 2048, 6144, 16, 8, 128, 151936, True, positions=40960, theta=1e6, epsilon=1e-6
    ),
    "gemma-2b": _shape(
        "gemma", 18, 2048, 16384, 8, 1, 256, 256000, True, positions=8192, theta=1e4, epsilon=1e-6
    ),
    "qwen2.5-3b": _shape(
        "qwen2", 36, 2048, 11008, 16, 2, 128, 151936, True, positions=32768, theta=1e6, epsilon=1e-6
    ),
    "llama-3.2-3b": _shape(
        "llama", 28, 3072, 8192, 24, 8, 128, 128256, True, positions=131072, theta=5e5, rotary=_LLAMA3
    ),
    "qwen3-4b": _shape(
        "qwen3", 36, 2560, 9728, 32, 8, 128, 151936, True, positions=40960, theta=1e6, epsilon=1e-6
    ),
    "llama-2-7b": _shape("llama", 32, 4096, 11008, 32, 32, 128, 32000, False, positions=4096, theta=1e4),
    "mistral-7b": _shape("mistral", 32, 4096, 14336, 32, 8, 128, 32000, False, positions=32768, theta=1e4),
    "qwen2.5-7b": _shape(
        "qwen2", 28, 3584, 18944, 28, 4, 128, 152064, False, positions=32768, theta=1e6, epsilon=1e-6
    ),
    "llama-3.1-8b": _shape(
        "llama", 32, 4096, 14336, 32, 8, 128, 128256, False, positions=131072, theta=5e5,
        rotary=_LLAMA3 | {"factor": 8.0},
    ),
    "qwen3-8b": _shape(
        "qwen3", 36, 4096, 12288, 32, 8, 128, 151936, False, positions=40960, theta=1e6, epsilon=1e-6
    ),
}  # fmt: skip


def find_shape(name: str) -> dict[str, Any]:
    """The configuration of a published shape. BadInput lists those that are known."""
    if name not in SHAPES:
        raise BadInput(f"no shape {name!r}; there are: {', '.join(SHAPES)}")
    return SHAPES[name]


def matrices(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(rows, columns) of the matrices of one layer, by their Hugging Face names within it; with a router and
    `num_local_experts` where the configuration has them."""
    hidden, head, inner = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    experts = config.get("num_local_experts", 0)
    stems = [f"mlp.experts.{number}" for number in range(experts)] or ["mlp"]
    sizes = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
    }
    for stem in stems:
        sizes |= {
            f"{stem}.gate_proj": (inner, hidden),
            f"{stem}.up_proj": (inner, hidden),
            f"{stem}.down_proj": (hidden, inner),
        }
    return sizes | ({"mlp.gate": (experts, hidden)} if experts else {})


def vectors(config: dict[str, Any]) -> dict[str, int]:
    """Sizes of the norms (ones) and biases (zeros) of one layer, by their full names within it."""
    hidden, head = config["hidden_size"], config["head_dim"]
    sizes = {"input_layernorm.weight": hidden, "post_attention_layernorm.weight": hidden}
    if config["model_type"] == "qwen3":
        sizes |= {"self_attn.q_norm.weight": head, "self_attn.k_norm.weight": head}
    if config["model_type"] == "qwen2":
        for part, (rows, _) in list(matrices(config).items())[:3]:
            sizes[f"{part}.bias"] = rows
    return sizes


def parameters(config: dict[str, Any]) -> int:
    """Weights of all matrices, the embedding once where it is tied. Norms and biases are not counted."""
    table = config["vocab_size"] * config["hidden_size"]
    layer = sum(rows * columns for rows, columns in matrices(config).values())
    return int((1 if config["tie_word_embeddings"] else 2) * table + config["num_hidden_layers"] * layer)
