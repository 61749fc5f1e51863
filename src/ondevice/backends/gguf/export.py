"""A decoder of the Llama family as a GGUF file, for llama.cpp and all that reads its files.

Knows what llama.cpp calls things and where it wants rows turned. Codes in tiles are kept as they are: 4 bits and fewer
are Q4_0, more are Q8_0, and only a scale is rounded to float16. The container is written by the package `gguf`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from ondevice.backends.gguf.vocabulary import write_tokenizer
from ondevice.backends.language import Files
from ondevice.errors import BadInput, MissingExtra, UnsupportedModel
from ondevice.numerics.tiles import TiledMatrix
from ondevice.runtime.projection import Tensors
from ondevice.runtime.rotary import frequencies
from ondevice.runtime.weights.gguf.model import ALL_EXPERTS, FAMILIES, INNER, OUTER

Type = Literal["F32", "F16", "Q8_0", "Q4_0"]
_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


@dataclass(frozen=True)
class _Entry:
    """One tensor of the file, made when it is written. parts: the tensors that it is made of; one, or all experts."""

    name: str
    parts: tuple[str, ...]
    type: Type
    shape: tuple[int, ...]


def write_gguf(files: Files, path: Path, type_: str | None = None) -> tuple[str, ...]:
    """Write a model; what the reader of the file should know.

    type_: of matrices, "F32", "F16", "Q8_0" or "Q4_0"; None keeps codes where there are codes and is F16 elsewhere.
    A matrix whose columns do not divide into 32 stays F16.
    Raises UnsupportedModel for an architecture, tokenizer or tensor that llama.cpp has no place for, MissingExtra
    without the package gguf.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("gguf", "gguf", "to export to GGUF") from error
    if type_ not in (None, *get_args(Type)):
        raise BadInput(f"no type {type_!r}; there are: {', '.join(get_args(Type))}")
    source = _Source(files)
    entries = source.entries(cast(Type | None, type_))
    writer = gguf.GGUFWriter(path, source.architecture)
    notes = source.write_fields(writer)
    write_tokenizer(writer, files, source.vocabulary)
    factors = source.rotary_factors()
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    kinds = gguf.GGMLQuantizationType
    for entry in entries:
        values, size = gguf.GGML_QUANT_SIZES[kinds[entry.type]]
        nbytes = int(np.prod(entry.shape)) // values * size
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), nbytes, kinds[entry.type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for entry in entries:
        rows = np.concatenate([source.rows(part, entry) for part in entry.parts])
        writer.write_tensor_data(rows)
    writer.close()
    counts = Counter(entry.type for entry in entries if len(entry.shape) > 1)
    return (*notes, "matrices: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


class _Source:
    """A model under llama.cpp's names."""

    def __init__(self, files: Files) -> None:
        self._tensors, self._config = files.tensors, files.config
        family = files.config.get("model_type")
        named = {name: ours for ours, names in FAMILIES.items() for name in names if name}
        named["mistral"] = "llama"
        if family not in named:
            raise UnsupportedModel(
                f"a model of type {family!r} has no GGUF form here; these have: {', '.join(named)}"
            )
        self.family, self.architecture = str(family), named[str(family)]
        self._heads = int(files.config["num_attention_heads"])
        self._cached = int(files.config.get("num_key_value_heads") or self._heads)
        self._head = int(files.config.get("head_dim") or files.config["hidden_size"] // self._heads)
        self.vocabulary = self._shape("model.embed_tokens.weight")[0]

    def entries(self, type_: Type | None) -> list[_Entry]:
        """All tensors of the file. Raises UnsupportedModel for one that has no place there."""
        found: dict[str, tuple[str, ...]] = {}
        experts: dict[str, dict[int, str]] = {}
        for name in self._tensors:
            name = re.sub(r"\.(down|up)\.weight$", ".weight", name) if self._is_low_rank(name) else name
            if name.endswith(".input_scale"):
                continue
            place, expert = self._place(name)
            if expert is None:
                found[place] = (name,)
            else:
                experts.setdefault(place, {})[expert] = name
        for place, parts in experts.items():
            if sorted(parts) != list(range(len(parts))):
                raise UnsupportedModel(f"{place}: some experts are missing")
            found[place] = tuple(parts[number] for number in range(len(parts)))
        return [self._entry(place, parts, type_) for place, parts in found.items()]

    def rows(self, name: str, entry: _Entry) -> npt.NDArray[Any]:
        """The bytes or values of a tensor, rows as llama.cpp wants them."""
        rows = self._stored_rows(name, entry.type)
        match = re.search(r"\.(attn_[qk])\.", entry.name)
        if match and self.architecture == "llama":
            heads = self._heads if match[1] == "attn_q" else self._cached
            turned = rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)
            rows = np.ascontiguousarray(turned).reshape(rows.shape)
        if self.family == "gemma" and entry.name.endswith("norm.weight"):
            rows = rows + np.float32(1)
        return rows[None] if len(entry.shape) == 3 else rows

    def write_fields(self, writer: Any) -> tuple[str, ...]:
        """The fields that say what the model is."""
        config, notes = self._config, []
        positions = int(config.get("max_position_embeddings") or 2048)
        window = int(config.get("sliding_window") or 0) if config.get("use_sliding_window", True) else 0
        if window and window < positions:
            notes.append(
                f"llama.cpp has no sliding window for {self.architecture}: the context is cut to {window}"
            )
            positions = window
        writer.add_context_length(positions)
        writer.add_embedding_length(int(config["hidden_size"]))
        writer.add_block_count(int(config["num_hidden_layers"]))
        writer.add_feed_forward_length(int(config.get("intermediate_size") or 0))
        writer.add_head_count(self._heads)
        writer.add_head_count_kv(self._cached)
        writer.add_key_length(self._head)
        writer.add_value_length(self._head)
        writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
        writer.add_vocab_size(self.vocabulary)
        self._write_rotary(writer)
        experts = config.get("num_local_experts") or config.get("num_experts")
        if experts:
            writer.add_expert_count(int(experts))
            writer.add_expert_used_count(int(config.get("num_experts_per_tok") or 2))
        if config.get("moe_intermediate_size"):
            writer.add_expert_feed_forward_length(int(config["moe_intermediate_size"]))
        if config.get("shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(int(config["shared_expert_intermediate_size"]))
        return tuple(notes)

    def rotary_factors(self) -> npt.NDArray[np.float32] | None:
        """What Llama 3's rule divides each frequency by; None for other rules."""
        rope = self._rope
        if rope.get("rope_type", rope.get("type")) not in ("llama3", "factors"):
            return None
        plain = dict(self._config) | {"rope_parameters": dict(rope) | {"rope_type": "default"}}
        ruled, unruled = (frequencies(config, self._head)[0] for config in (self._config, plain))
        return (unruled / ruled).astype(np.float32)

    @property
    def _rope(self) -> Mapping[str, Any]:
        return dict(self._config.get("rope_parameters") or self._config.get("rope_scaling") or {})

    def _write_rotary(self, writer: Any) -> None:
        rope, config = self._rope, self._config
        kind = rope.get("rope_type", rope.get("type", "default"))
        share = float(rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
        writer.add_rope_dimension_count(int(self._head * share))
        writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
        if kind in ("linear", "yarn"):
            from gguf import RopeScalingType

            if any(rope.get(key) for key in ("mscale", "beta_fast", "beta_slow", "attention_factor")):
                raise UnsupportedModel(f"rotary scaling with settings that are not written yet: {dict(rope)}")
            writer.add_rope_scaling_type(RopeScalingType(kind))
            writer.add_rope_scaling_factor(float(rope["factor"]))
            if kind == "yarn":
                writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        elif kind not in ("default", "llama3", "factors"):
            raise UnsupportedModel(f"rotary scaling {kind!r} has no GGUF form here")

    def _is_low_rank(self, name: str) -> bool:
        return bool(re.search(r"_proj\.(down|up)\.weight$", name))

    def _place(self, name: str) -> tuple[str, int | None]:
        """llama.cpp's name, and the expert's number where the tensor is one of many."""
        stem, _, kind = name.rpartition(".")
        for theirs, ours in OUTER.items():
            if stem == ours:
                return f"{theirs}.{kind}", None
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
        if match is not None:
            part = match[2].replace("block_sparse_moe.", "mlp.")
            part = re.sub(
                r"(experts\.\d+)\.(w[123])$", lambda found: f"{found[1]}.{_MIXTRAL[found[2]]}", part
            )
            for theirs, ours in INNER.items():
                if part == ours:
                    return f"blk.{match[1]}.{theirs}.{kind}", None
            for theirs, ours in ALL_EXPERTS.items():
                if each := re.fullmatch(re.escape(ours).replace(r"\{\}", r"(\d+)"), part):
                    return f"blk.{match[1]}.{theirs}.{kind}", int(each[1])
        raise UnsupportedModel(f"tensor {name} has no place in a GGUF file of {self.architecture}")

    def _entry(self, place: str, parts: tuple[str, ...], type_: Type | None) -> _Entry:
        shape = self._shape(parts[0])
        if any(self._shape(part) != shape for part in parts):
            raise UnsupportedModel(f"{place}: experts of several sizes cannot lie in one tensor")
        if place.endswith("ffn_gate_inp_shexp.weight"):
            shape = (shape[-1],)
        exact = len(shape) == 1 or "ffn_gate_inp" in place  # norms, biases and routers, as llama.cpp has them
        chosen: Type = "F32" if exact else type_ or self._nearest(parts[0])
        if chosen[0] == "Q" and shape[-1] % 32:
            chosen = "F16"
        many = re.search(r"_exps\.weight$", place)
        return _Entry(place, parts, chosen, (len(parts), *shape) if many else shape)

    def _nearest(self, name: str) -> Type:
        stored = self._tensors.get(name)
        if stored is None or stored.format["kind"] != "tiles":
            return "F16"
        return "Q4_0" if stored.format["bits"] <= 4 else "Q8_0"

    def _shape(self, name: str) -> tuple[int, ...]:
        if name not in self._tensors:
            stem = name.removesuffix(".weight")
            if f"{stem}.down.weight" not in self._tensors:
                raise UnsupportedModel(f"{name} is missing, or lies in a form that GGUF cannot hold (bands)")
            return (self._shape(f"{stem}.up.weight")[0], self._shape(f"{stem}.down.weight")[1])
        kind = self._tensors[name].format
        return tuple(kind["shape"]) if "shape" in kind else (kind["rows"], kind["columns"])

    def _stored_rows(self, name: str, type_: Type) -> npt.NDArray[Any]:
        stored = self._tensors.get(name)
        scaled = f"{name.removesuffix('.weight')}.input_scale" in self._tensors
        if stored is not None and not scaled and type_[0] == "Q" and self._nearest(name) == type_:
            return _blocks(_tiled(stored.format, stored.array), type_)
        import gguf

        values = np.ascontiguousarray(_values(self._tensors, name), dtype=np.float32)
        if type_ == "F16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            raise BadInput(f"{name} holds values beyond float16; export with type F32")
        rows: npt.NDArray[Any] = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_])
        return rows.reshape(-1) if name.endswith("shared_expert_gate.weight") else rows


def _tiled(kind: Mapping[str, Any], array: npt.NDArray[Any]) -> TiledMatrix:
    return TiledMatrix.from_bytes(array, *(kind[key] for key in ("rows", "columns", "bits", "group_size")))


def _values(tensors: Tensors, name: str) -> npt.NDArray[Any]:
    """In floats; a low-rank pair multiplied out, an input scale taken into the columns."""
    stem = name.removesuffix(".weight")
    if name not in tensors:
        up, down = (_values(tensors, f"{stem}.{part}.weight").astype(np.float32) for part in ("up", "down"))
        return np.asarray(up @ down)
    stored = tensors[name]
    if stored.format["kind"] == "tiles":
        values: npt.NDArray[Any] = _tiled(stored.format, stored.array).dequantize()
    else:
        values = stored.to_dense()
    if f"{stem}.input_scale" in tensors:
        values = values / tensors[f"{stem}.input_scale"].to_dense()
    return values


def _blocks(matrix: TiledMatrix, type_: Type) -> npt.NDArray[np.uint8]:
    """The same codes in blocks of 32, each with its scale in float16."""
    middle = 1 << (matrix.bits - 1)
    codes = (matrix.codes.astype(np.int16) - middle).reshape(matrix.rows, -1, 32)
    each = np.repeat(matrix.multipliers, matrix.group_size // 32, axis=1)[:, : codes.shape[1]]
    scales = (matrix.scales[:, None] * each).astype(np.float16)[:, :, None].view(np.uint8)
    if type_ == "Q8_0":
        return np.concatenate([scales, codes.astype(np.int8).view(np.uint8)], axis=2).reshape(matrix.rows, -1)
    unsigned = (codes + 8).astype(np.uint8)
    packed = unsigned[:, :, :16] | (unsigned[:, :, 16:] << np.uint8(4))
    return np.concatenate([scales, packed], axis=2).reshape(matrix.rows, -1)
