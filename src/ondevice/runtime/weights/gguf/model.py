"""A GGUF model of the Llama family under Hugging Face's names: its configuration, and tensors that the runtime reads.

Knows how llama.cpp's converter names and turns what it converts, and undoes it. Knows nothing of tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.runtime.weights.gguf import blocks
from ondevice.runtime.weights.gguf.container import Container, RawTensor

# llama.cpp's name of an architecture -> Hugging Face's, without and with experts
FAMILIES = {
    "llama": ("llama", "mixtral"), "qwen2": ("qwen2", ""), "qwen3": ("qwen3", ""), "gemma": ("gemma", ""),
    "qwen2moe": ("", "qwen2_moe"), "qwen3moe": ("", "qwen3_moe"), "olmoe": ("", "olmoe"),
}  # fmt: skip
OUTER = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
}
ALL_EXPERTS = {
    "ffn_gate_exps": "mlp.experts.{}.gate_proj",
    "ffn_up_exps": "mlp.experts.{}.up_proj",
    "ffn_down_exps": "mlp.experts.{}.down_proj",
}
_NOT_WEIGHTS = ("rope_freqs.weight",)
_MOST_POSITIONS = 1 << 24
_USED_POSITIONS = 1 << 20  # a table of angles is made for each; a header alone must not take gigabytes


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the form that the kernels read: float32, float16 or tiles with int8 activations.

    array is made at each use and not kept. paired: heads whose rows lie as llama.cpp's rotary kernel wants them, pair
    beside pair; 0 where they lie as in Hugging Face's files. offset: what is added to every value.
    """

    tensor: RawTensor
    paired: int = 0
    offset: float = 0.0

    @property
    def format(self) -> Mapping[str, Any]:
        type_, shape = self.tensor.type, self.tensor.shape
        if type_.values == 1 or len(shape) == 1:
            return {"kind": "dense", "dtype": str(self.dtype), "shape": list(shape)}
        return {"kind": "tiles", "rows": shape[0], "columns": shape[1], "bits": blocks.tile_bits(type_),
                "group_size": blocks.GROUP, "activations": "int8"}  # fmt: skip

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        half = self.tensor.type.name == "F16" and not self.offset
        return np.dtype(np.float16 if half else np.float32)

    @property
    def nbytes(self) -> int:
        """In the file."""
        return int(self.tensor.raw.nbytes)

    @property
    def array(self) -> npt.NDArray[Any]:
        if self.format["kind"] == "tiles":
            return blocks.to_tiles(self._rows, self.tensor.type)
        if self.dtype == np.float16:
            whole = np.ascontiguousarray(self._rows).view(np.float16).reshape(self.tensor.shape)
            return np.require(whole, requirements=["A", "C"])
        return self.to_dense()

    def to_dense(self) -> npt.NDArray[Any]:
        """The values in float32, exactly as the file has them."""
        values = blocks.dequantize(self._rows, self.tensor.type).reshape(self.tensor.shape)
        return values + np.float32(self.offset) if self.offset else values

    @property
    def _rows(self) -> npt.NDArray[np.uint8]:
        if not self.paired:
            return self.tensor.raw
        shape = self.tensor.shape
        rows = self.tensor.raw.reshape(shape[0], -1)  # a bias has one value a row
        turned = rows.reshape(self.paired, -1, 2, rows.shape[1]).swapaxes(1, 2)
        return np.ascontiguousarray(turned).reshape(self.tensor.raw.shape)


class GgufModel:
    """config: as Hugging Face's config.json. tensors: by Hugging Face's names.

    Raises UnsupportedModel for another architecture, BadInput where fields are missing or of no use.
    """

    def __init__(self, container: Container) -> None:
        self.container, self._fields = container, container.fields
        self.architecture = self._text("general.architecture")
        if self.architecture not in FAMILIES:
            raise UnsupportedModel(
                f"{container.path} holds a model of the architecture {self.architecture!r}; these are read: "
                f"{', '.join(FAMILIES)}"
            )
        plain, moe = FAMILIES[self.architecture]
        self.family = moe if self._number("expert_count", 0) else plain
        if not self.family:
            raise BadInput(
                f"{container.path}: {self.architecture} with or without experts, as it is not known"
            )

    @cached_property
    def config(self) -> dict[str, Any]:
        """Sizes, rotary positions, first and last token."""
        layers, heads = self._number("block_count"), self._number("attention.head_count")
        hidden = self._number("embedding_length")
        if not 1 <= layers <= len(self.container.tensors) or not 1 <= heads <= hidden:
            raise BadInput(
                f"{self.container.path}: {layers} layers of {heads} heads cannot be; download it again"
            )
        head = self._number("attention.key_length", hidden // heads)
        positions = self._number("context_length")
        if not 1 <= head <= hidden or not 1 <= positions <= _MOST_POSITIONS:
            raise BadInput(f"{self.container.path}: heads of {head} values for {positions} tokens cannot be")
        config = {
            "model_type": self.family,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self._number("attention.head_count_kv", heads),
            "head_dim": head,
            "max_position_embeddings": min(positions, _USED_POSITIONS),
            "rms_norm_eps": self._real("attention.layer_norm_rms_epsilon"),
            "hidden_act": "gelu_pytorch_tanh" if self.family == "gemma" else "silu",
            "tie_word_embeddings": "output.weight" not in self.container.tensors,
            "vocab_size": self._vocabulary(),
            "rope_parameters": self._rotary(head),
            "sliding_window": self._number("attention.sliding_window", 0) or None,
        }
        for name, key in (("intermediate_size", "feed_forward_length"),
                          ("moe_intermediate_size", "expert_feed_forward_length"),
                          ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
                          ("num_experts", "expert_count"), ("num_experts_per_tok", "expert_used_count")):  # fmt: skip
            if value := self._number(key, 0):
                config[name] = value
        config["norm_topk_prob"] = self.family in ("mixtral", "qwen3_moe")
        for name in ("bos", "eos"):
            if type(token := self._fields.get(f"tokenizer.ggml.{name}_token_id")) is int:
                config[f"{name}_token_id"] = token
        return config

    @cached_property
    def tensors(self) -> dict[str, GgufTensor]:
        """Raises UnsupportedModel for a tensor that has no place in the architecture."""
        named: dict[str, GgufTensor] = {}
        config, heads = self.config, {}
        if self.architecture == "llama":
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        for name, tensor in self.container.tensors.items():
            if name in _NOT_WEIGHTS:
                continue
            match = re.fullmatch(r"(?:blk\.(\d{1,9})\.)?(\w+)(?:\.(\d{1,9}))?\.(weight|bias)", name)
            if match is None:
                raise self._misplaced(name)
            layer, part, expert, kind = match.groups()
            table = OUTER if layer is None else INNER | ALL_EXPERTS
            if part not in table and not (part in ("ffn_gate", "ffn_up", "ffn_down") and expert):
                raise self._misplaced(name)
            prefix = "" if layer is None else f"model.layers.{int(layer)}."
            if part in ALL_EXPERTS:
                named |= self._experts(prefix + ALL_EXPERTS[part] + f".{kind}", tensor)
            elif expert is not None:  # as the first converters wrote Mixtral: one tensor an expert
                named[prefix + ALL_EXPERTS[f"{part}_exps"].format(expert) + f".{kind}"] = GgufTensor(tensor)
            else:
                if part == "ffn_gate_inp_shexp" and len(tensor.shape) == 1:
                    tensor = RawTensor(tensor.type, (1, *tensor.shape), tensor.raw)
                if len(tensor.shape) != (1 if kind == "bias" or part.endswith("norm") else 2):
                    raise BadInput(f"{self.container.path}: {name} has the shape {list(tensor.shape)}")
                paired = heads.get(part, 0)
                if paired and tensor.shape[0] % (2 * paired):
                    raise BadInput(
                        f"{self.container.path}: {name} has {tensor.shape[0]} rows for {paired} heads"
                    )
                offset = -1.0 if self.family == "gemma" and part.endswith("norm") else 0.0
                named[prefix + table[part] + f".{kind}"] = GgufTensor(tensor, paired, offset)
        return named

    def _experts(self, name: str, tensor: RawTensor) -> dict[str, GgufTensor]:
        if len(tensor.shape) != 3:
            raise BadInput(
                f"{self.container.path}: {name} has the shape {list(tensor.shape)}, experts have three axes"
            )
        count, rows, columns = tensor.shape
        if count != self.config.get("num_experts"):
            raise BadInput(f"{self.container.path}: {name} holds {count} experts, the header says otherwise")
        raw = tensor.raw.reshape(count, rows, -1)
        return {
            name.format(n): GgufTensor(RawTensor(tensor.type, (rows, columns), raw[n])) for n in range(count)
        }

    def _rotary(self, head: int) -> dict[str, Any]:
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self._real("rope.freq_base", 10000.0)}
        turned = self._number("rope.dimension_count", head)
        if turned != head:
            rope["partial_rotary_factor"] = turned / head
        if "rope_freqs.weight" in self.container.tensors:
            factors = GgufTensor(self.container.tensors["rope_freqs.weight"]).to_dense()
            if factors.shape != (turned // 2,) or not (np.isfinite(factors).all() and (factors > 0).all()):
                raise BadInput(
                    f"{self.container.path}: rope_freqs.weight does not hold {turned // 2} factors"
                )
            return rope | {"rope_type": "factors", "factors": factors.tolist()}
        kind = self._fields.get(f"{self.architecture}.rope.scaling.type", "none")
        if kind == "linear":
            return rope | {"rope_type": "linear", "factor": self._real("rope.scaling.factor")}
        if kind == "yarn":
            length = self._number("rope.scaling.original_context_length")
            rope |= {"rope_type": "yarn", "original_max_position_embeddings": length,
                     "factor": self._real("rope.scaling.factor")}  # fmt: skip
        elif kind != "none":
            raise UnsupportedModel(
                f"{self.container.path}: rotary scaling {kind!r}; none, linear and yarn are read"
            )
        return rope

    def _vocabulary(self) -> int:
        if "token_embd.weight" not in self.container.tensors:
            raise BadInput(f"{self.container.path} lacks token_embd.weight; it is not a whole model")
        return self.container.tensors["token_embd.weight"].shape[0]

    def _misplaced(self, name: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.container.path}: tensor {name!r} has no place in {self.architecture}")

    def _text(self, key: str) -> str:
        if not isinstance(value := self._fields.get(key), str):
            raise BadInput(f"{self.container.path}: the field {key} is missing; it is not a model")
        return value

    def _number(self, key: str, default: int | None = None) -> int:
        value = self._fields.get(f"{self.architecture}.{key}", default)
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise BadInput(f"{self.container.path}: {self.architecture}.{key} is {value!r}, not a count")
        return value

    def _real(self, key: str, default: float | None = None) -> float:
        value = self._fields.get(f"{self.architecture}.{key}", default)
        if type(value) is not float or not 0 < value < float("inf"):
            raise BadInput(
                f"{self.container.path}: {self.architecture}.{key} is {value!r}, not a positive number"
            )
        return value
