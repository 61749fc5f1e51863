"""Blocks and headers of GGUF against the package gguf; hostile headers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput, UnsupportedModel
from ondevice.numerics.tiles import TiledMatrix
from ondevice.runtime.weights.gguf import blocks
from ondevice.runtime.weights.gguf.container import TYPES, is_gguf, read_container
from ondevice.runtime.weights.gguf.model import GgufModel

QUANTISED = {each.name: each for each in TYPES.values() if each.values > 1}


def raw_blocks(name: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Any bytes are codes; what lies where a scale does is kept to sensible halves."""
    type_, rng = QUANTISED[name], np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // type_.values, type_.size), np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q4_1": (0, 2),
              "Q5_1": (0, 2)}.get(name, (0,))  # fmt: skip
    for at in halves:
        scales = rng.uniform(0.001, 0.02, raw.shape[:2]).astype(np.float16)
        raw[:, :, at : at + 2] = scales[:, :, None].view(np.uint8)
    return raw.reshape(rows, -1)


def test_types_are_those_of_the_format() -> None:
    for number, type_ in TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (type_.name, (type_.values, type_.size))


@pytest.mark.parametrize("name", QUANTISED)
def test_values_are_those_of_gguf(name: str) -> None:
    raw = raw_blocks(name, 5, 512)
    want = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(blocks.dequantize(raw, QUANTISED[name]), want)


@pytest.mark.parametrize("name", QUANTISED)
@settings(max_examples=5, deadline=None)
@given(rows=st.integers(1, 40), columns=st.sampled_from([256, 512]), seed=st.integers(0, 99))
def test_tiles_are_near_the_values(name: str, rows: int, columns: int, seed: int) -> None:
    type_, raw = QUANTISED[name], raw_blocks(name, rows, columns, seed)
    bits = blocks.tile_bits(type_)
    tiles = TiledMatrix.from_bytes(blocks.to_tiles(raw, type_), rows, columns, bits, 32)
    want = blocks.dequantize(raw, type_)
    error = np.abs(tiles.dequantize() - want)
    row, group = np.abs(want).max(axis=1), np.abs(want).reshape(rows, -1, 32).max(axis=2)
    if (
        name == "Q4_0"
    ):  # codes are kept, so an error is a scale's: half a step of the multipliers, times a code
        np.testing.assert_array_equal(np.sign(tiles.dequantize()) * np.sign(want) >= 0, True)
        assert (error <= row[:, None] / 15 + 1e-6).all()
    else:  # half a step, where a multiplier is at most one too large
        largest = max(127 >> (bits - 1), 1)
        steps = (group + row[:, None] / largest) / ((1 << (bits - 1)) - 1) if bits < 8 else row[:, None] / 127
        assert (error.reshape(rows, -1, 32).max(axis=2) <= 0.51 * steps + 1e-7).all()


def test_q8_0_of_one_scale_a_row_is_exact() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (20, 8, 32)).astype(np.int8)
    codes[:, 0, 0] = 127
    scales = np.full((20, 8, 1), 0.0123, np.float16).view(np.uint8)
    raw = np.concatenate([scales, codes.view(np.uint8)], axis=2).reshape(20, -1)
    tiles = TiledMatrix.from_bytes(blocks.to_tiles(raw, QUANTISED["Q8_0"]), 20, 256, 8, 32)
    np.testing.assert_array_equal(tiles.int8(), codes.reshape(20, -1))


def test_scales_that_are_not_finite_are_refused() -> None:
    for name in ("Q4_0", "Q8_0", "Q4_K"):
        raw = raw_blocks(name, 2, 256)
        raw[1, :2] = np.array([np.inf], np.float16).view(np.uint8)
        with pytest.raises(BadInput, match="not finite"):
            blocks.to_tiles(raw, QUANTISED[name])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.number", 7)
    writer.add_float32("a.real", 0.5)
    writer.add_bool("a.flag", True)
    writer.add_array("a.list", ["one", "zwei", "字"])
    writer.add_array("an.array", [1, -2, 3])
    writer.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("half", np.arange(64, dtype=np.float16).reshape(2, 32))
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("packed", gguf.quants.quantize(np.ones((4, 64), np.float32), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_read_as_gguf_reads_it(file: Path) -> None:
    assert is_gguf(file)
    assert not is_gguf(file.parent)
    found, theirs = read_container(file), gguf.GGUFReader(file)
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            value = found.fields[key]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()
    for tensor in theirs.tensors:
        mine = found.tensors[tensor.name]
        assert (mine.type.name, list(mine.shape)) == (tensor.tensor_type.name, tensor.shape.tolist()[::-1])
        np.testing.assert_array_equal(mine.raw.reshape(-1), tensor.data.reshape(-1).view(np.uint8))


def header(
    tensors: bytes = b"", fields: bytes = b"", counts: tuple[int, int] = (0, 0), version: int = 3
) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, *counts) + fields + tensors


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def info(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = 2**60
HOSTILE: dict[str, tuple[bytes, str]] = {
    "another file": (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
    "nearly empty": (b"GGUF", "cut off"),
    "an old version": (header(version=1), "version 1"),
    "big-endian": (header(version=3 << 24), "version 50331648"),
    "many fields": (header(counts=(0, HUGE)), "claims 1152921504606846976 fields"),
    "many tensors": (header(counts=(HUGE, 0)), "claims 1152921504606846976 tensors"),
    "a long key": (header(struct.pack("<Q", HUGE) + bytes(20), counts=(0, 1)), "bytes of a string"),
    "a long text": (header(text(b"k") + struct.pack("<IQ", 8, HUGE), counts=(0, 1)), "bytes of a string"),
    "a long array": (header(text(b"k") + struct.pack("<IIQ", 9, 0, HUGE), counts=(0, 1)), "numbers"),
    "a long list": (header(text(b"k") + struct.pack("<IIQ", 9, 8, HUGE), counts=(0, 1)), "strings"),
    "arrays in arrays": (header(text(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(9), counts=(0, 1)), "type 9"),
    "no such type": (header(text(b"k") + struct.pack("<I", 99), counts=(0, 1)), "unknown type 99"),
    "a key twice": (header(2 * (text(b"k") + struct.pack("<IB", 7, 1)), counts=(0, 2)), "'k' is there twice"),
    "no text": (header(text(b"\xff\xfe") + bytes(12), counts=(0, 1)), "not UTF-8"),
    "odd alignment": (
        header(text(b"general.alignment") + struct.pack("<II", 4, 3), counts=(0, 1)), "aligned to 3"),
    "no axes": (header(info(b"t", (), 0, 0) + bytes(32), counts=(1, 0)), "0 axes"),
    "many axes": (header(text(b"t") + struct.pack("<I", 2**31) + bytes(32), counts=(1, 0)), "2147483648 axes"),
    "a strange block": (header(info(b"t", (4,), 77, 0) + bytes(64), counts=(1, 0)), "type 77"),
    "an empty tensor": (header(info(b"t", (0, 4), 0, 0) + bytes(64), counts=(1, 0)), r"the shape \[4, 0\]"),
    "half a block": (header(info(b"t", (33,), 8, 0) + bytes(64), counts=(1, 0)), r"the shape \[33\] in Q8_0"),
    "negative sizes": (header(info(b"t", (2**64 - 4,), 0, 0) + bytes(64), counts=(1, 0)), "does not fit"),
    "sizes that overflow": (header(info(b"t", (2**32, 2**32), 0, 0) + bytes(64), counts=(1, 0)), "does not fit"),
    "beyond the file": (header(info(b"t", (4,), 0, 2**63) + bytes(64), counts=(1, 0)), "does not fit"),
    "overlapping": (
        header(info(b"t", (4,), 0, 0) + info(b"u", (4,), 0, 8) + bytes(99), counts=(2, 0)), "'u' lies at 8..24"),
    "a tensor twice": (
        header(info(b"t", (4,), 0, 0) + info(b"t", (4,), 0, 32) + bytes(99), counts=(2, 0)), "twice"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_headers_are_refused(what: str, tmp_path: Path) -> None:
    content, message = HOSTILE[what]
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_container(tmp_path / "model.gguf")


def test_every_cut_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for end in range(0, len(whole) - 32, 7):
        file.write_bytes(whole[:end])
        with pytest.raises(BadInput):
            read_container(file)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({}, "general.architecture is missing"),
        ({"general.architecture": "mamba"}, "architecture 'mamba'"),
        ({"general.architecture": "qwen2moe"}, "with or without experts"),
        ({"general.architecture": "llama"}, "llama.block_count is None"),
        ({"general.architecture": "llama", "llama.block_count": "2"}, "'2', not a count"),
        ({"general.architecture": "llama", "llama.block_count": 2**30, "llama.attention.head_count": 4,
          "llama.embedding_length": 64}, "1073741824 layers"),
        ({"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 4,
          "llama.embedding_length": 64, "llama.context_length": 2**31 - 1}, "for 2147483647 tokens"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_are_refused(fields: dict[str, Any], message: str, file: Path) -> None:
    container = read_container(file)
    container.fields.clear()
    container.fields.update(fields)
    with pytest.raises((BadInput, UnsupportedModel), match=message):
        _ = GgufModel(container).config
