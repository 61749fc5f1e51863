"""Two worlds: the same tokens, plaintext in one of them only, and nothing that was not agreed is accepted."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.artifact import Artifact, Contents, StoredTensor, write
from ondevice.errors import BadArtifact, BadInput, ProtocolViolation
from ondevice.kernels import Kernels
from ondevice.measure.plaintext import find_in_files, find_in_process, samples_of
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.tee import Block, NormalWorld, SecureRegion, TrustedApp, Wires
from ondevice.runtime.two_worlds import TwoWorlds
from ondevice.runtime.weights.encrypted import seal
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES

SHAPE = SHAPES["qwen3-0.6b"] | {
    "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 40000,
}  # fmt: skip
PROMPT = [1, 5000, 42, 7, 7]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_random(tmp_path_factory.mktemp("plain") / "model", SHAPE, bits=8)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    path.write_bytes(bytes(range(40)))
    return path


@pytest.fixture(scope="module")
def sealed(plain: Artifact, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write(tmp_path_factory.mktemp("sealed") / "model", seal(plain, key_file.read_bytes()))


@pytest.fixture(scope="module")
def worlds(sealed: Artifact, key_file: Path) -> Iterator[TwoWorlds]:
    with TwoWorlds(sealed.folder, key_file, context=64) as worlds:
        yield worlds


def test_tokens_are_those_of_the_plain_model_and_plaintext_is_in_one_world(
    plain: Artifact, sealed: Artifact, worlds: TwoWorlds
) -> None:
    decoder = Decoder(plain.tensors, plain.config, Kernels(1), context=64)
    sequence, want, tokens = decoder.cache.sequence(), list[int](), PROMPT
    for _ in range(4):
        want.append(int(decoder.step([(sequence, tokens)])[0][0].argmax()))
        tokens = want[-1:]
    for policy, keep in (
        ("serial", 0.0),
        ("preempt", 0.3),
        ("fifo", 0.0),
        ("preempt", 1.0),
        ("priority", 1.0),
    ):
        answer = worlds.answer(PROMPT, 4, policy)
        assert answer["tokens"] == want
        worlds.give_back(keep)
    assert answer["held"] == answer["nbytes"]
    assert answer["read"] == 0
    samples = samples_of(it.array.view(np.uint8).reshape(-1) for it in plain.tensors.values())
    assert len(samples) > 10
    assert find_in_process(worlds.trusted_pid, samples) == set(range(len(samples)))
    assert find_in_process(worlds.normal_pid, samples) == set()
    assert find_in_files(sealed.folder.iterdir(), samples) == set()
    worlds.give_back(0.0)
    assert find_in_process(worlds.trusted_pid, samples) == set()


def test_an_altered_byte_is_an_error_and_the_worlds_go_on(
    sealed: Artifact, key_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sealed.folder, copy)
    place = sealed.tensors["model.layers.1.mlp.down_proj.weight"].place
    assert place is not None
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(place.offset + place.nbytes // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
        file.flush()
        with TwoWorlds(copy, key_file, context=64) as worlds:
            with pytest.raises(BadArtifact, match=r"down_proj.*cannot be decrypted"):
                worlds.answer(PROMPT)
            file.seek(-1, 1)
            file.write(byte)
            file.flush()
            assert len(worlds.answer(PROMPT, 2)["tokens"]) == 2


def test_a_truncated_file_is_an_error_in_the_trusted_world(
    sealed: Artifact, key_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(sealed.folder, copy)
    with TwoWorlds(copy, key_file, context=64) as worlds:
        with (copy / "model.safetensors").open("r+b") as file:
            file.truncate(file.seek(0, 2) // 2)
        with pytest.raises(BadArtifact, match="ends after"):
            worlds.answer(PROMPT)


def test_another_key_or_another_models_weights_open_nothing(
    plain: Artifact, sealed: Artifact, key_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(range(1, 41)))
    with pytest.raises(BadArtifact, match="the key is another one"):
        TwoWorlds(sealed.folder, other, context=64)
    with pytest.raises(BadInput, match="is sealed; give its key"):
        TwoWorlds(sealed.folder, None, context=64)
    second = write(tmp_path / "second", seal(plain, key_file.read_bytes()))
    tensors = {name: StoredTensor(dict(it.format), np.array(it.array)) for name, it in sealed.tensors.items()}
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = StoredTensor(dict(tensors[name].format), np.array(second.tensors[name].array))
    mixed = write(tmp_path / "mixed", Contents(sealed.config, sealed.tokenizer_json, sealed.task, tensors))
    with TwoWorlds(mixed.folder, key_file, context=64) as worlds, pytest.raises(BadArtifact, match="up_proj"):
        worlds.answer(PROMPT)


@pytest.mark.parametrize("block", [Block(8192, 4096), Block(0, 4096), Block(4097, 4096), Block(-4096, 4096)])
def test_memory_that_is_not_adjacent_is_refused(block: Block) -> None:
    region = SecureRegion(1 << 20)
    region.extend_allocated(Block(0, 4096))
    with pytest.raises(ProtocolViolation, match="not adjacent"):
        region.extend_allocated(block)
    region.extend_allocated(Block(4096, 4096))


@pytest.mark.parametrize("nbytes", [0, -4096, 100, 2 << 20])
def test_memory_that_is_no_whole_pages_or_too_much_is_refused(nbytes: int) -> None:
    with pytest.raises(ProtocolViolation, match="whole pages"):
        SecureRegion(1 << 20).extend_allocated(Block(0, nbytes))


def test_secure_memory_shrinks_from_its_end_and_is_wiped() -> None:
    region = SecureRegion(1 << 20)
    region.extend_allocated(Block(0, 64 << 10))
    with pytest.raises(ProtocolViolation, match="cannot be protected"):
        region.extend_protected(65 << 10)
    region.extend_protected(32 << 10)
    region.bytes[: 32 << 10] = 7
    region.shrink(48 << 10)
    assert (region.allocated, region.protected) == (16 << 10, 16 << 10)
    assert (region.bytes[: 16 << 10] == 7).all()
    assert not region.bytes[16 << 10 :].any()
    for wrong in (-4096, 100, 17 << 10):
        with pytest.raises(ProtocolViolation, match="cannot shrink"):
            region.shrink(wrong)


class Wire:
    """A wire on which the other world says what it likes."""

    def __init__(self, says: list[Any]) -> None:
        self.says, self.heard = says, list[Any]()

    def send_bytes(self, what: bytes) -> None:
        self.heard.append(json.loads(what))

    def recv_bytes(self) -> bytes:
        says = self.says.pop(0)
        return says if isinstance(says, bytes) else json.dumps(says).encode()


@pytest.mark.parametrize(
    ("says", "match"),
    [
        ([3], "forged"),
        ([0, 0], "replayed"),
        ([["x"]], "for 1 numbers"),
        ([b"\x80\x04cos\nsystem"], "no message"),
    ],
)
def test_a_normal_world_that_issues_another_job_is_refused(
    sealed: Artifact, key_file: Path, says: list[Any], match: str
) -> None:
    """The trusted application, set up by hand over two live wires and one that lies."""
    pairs = [multiprocessing.Pipe() for _ in range(3)]
    normal = NormalWorld(Wires(*(pair[1] for pair in pairs)), FileStorage())
    threading.Thread(target=normal.serve, daemon=True).start()
    npu, told = Wire(list(says)), all(isinstance(each, int) for each in says)
    wires = Wires(pairs[0][0], pairs[1][0], npu)  # type: ignore[arg-type]
    app = TrustedApp(sealed.folder, key_file, wires, threads=1, context=64)
    with pytest.raises(ProtocolViolation, match=match):
        app.answer(PROMPT)
    assert npu.heard[-1] == ("returned" if told else 0)
    for pair in pairs:
        pair[0].close()
