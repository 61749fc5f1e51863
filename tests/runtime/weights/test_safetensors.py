from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ondevice.errors import BadInput
from ondevice.runtime.weights.safetensors import Checkpoint

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.half": torch.tensor([1.5, -2.0, 6e-8], dtype=torch.float16),
    "c.brain": torch.tensor([[3.14159, -1e30], [1e-40, 0.0]], dtype=torch.bfloat16),
    "d.ints": torch.arange(-3, 3, dtype=torch.int8),
    "e.empty": torch.zeros(0, 4),
}


def test_every_type_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", {"format": "pt"})
    checkpoint = Checkpoint(tmp_path)
    assert set(checkpoint) == set(TENSORS)
    for name, tensor in TENSORS.items():
        want = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
        np.testing.assert_array_equal(checkpoint[name].array, want)
        assert checkpoint[name].format["shape"] == list(tensor.shape)
        assert checkpoint[name].nbytes == tensor.nbytes
        place = checkpoint[name].place
        if tensor.dtype == torch.bfloat16:
            assert place is None  # it is converted: no bytes of the file are what is used
        else:
            assert place.path.read_bytes()[place.offset :][: place.nbytes] == tensor.numpy().tobytes()


def sharded(folder: Path) -> None:
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b.half": TENSORS["b.half"]}, folder / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b.half": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    sharded(tmp_path)
    checkpoint = Checkpoint(tmp_path)
    assert sorted(checkpoint) == ["a", "b.half"]
    assert checkpoint.nbytes == 30


def test_a_missing_or_foreign_shard_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(BadInput, match=r"two\.safetensors"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../one.safetensors"}}')
    with pytest.raises(BadInput, match="not in its folder"):
        Checkpoint(tmp_path)
    with pytest.raises(BadInput, match="only this format"):
        Checkpoint(tmp_path / "nowhere")


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + bytes(24)


def entry(dtype: str, shape: list[Any], *offsets: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (5).to_bytes(8, "little") + b"{nope",
        header(a=entry("F32", [2, 3], 0, 28)),
        header(a=entry("F32", [2, 3], 4, 28)),
        header(a=entry("F32", [6], 0, 24), b=entry("F32", [2], 16, 24)),
        header(a=entry("F32", [-2, -3], 0, 24)),
        header(a=entry("F32", [2.0, 3], 0, 24)),
        header(a=entry("F32", [1 << 62, 1 << 62], 0, 24)),
        header(a=entry("F32", [2, 3], -8, 16)),
        header(a=entry("F32", [2, 3], 0)),
        header(a=entry("F32", [2, 3], 0, "24")),
        header(a=entry("F4", [6], 0, 24)),
        header(a=7),
        header(a={"dtype": "F32"}),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"model\.safetensors"):
        Checkpoint(tmp_path)


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(1, 255), cut=st.integers(0, 400))
def test_a_changed_header_is_an_error_or_reads_within_the_file(
    tmp_path: Path, place: int, value: int, cut: int
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    content = bytearray(path.read_bytes())
    content[place % min(len(content), 500)] ^= value
    path.write_bytes(content[: len(content) - cut] if cut < 50 else content)
    try:
        for tensor in Checkpoint(tmp_path).values():
            assert tensor.array.size <= len(content)
    except BadInput:
        pass
