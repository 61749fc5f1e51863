"""Sealed artifacts: the same logits with the key, nothing without it, and no change goes unseen."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ondevice.artifact import Artifact, write
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.encrypted import is_sealed, read_key, seal, unseal
from ondevice.runtime.weights.parts import stages_of
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.runtime.weights.source import Resident
from ondevice.runtime.weights.streamed import Streamed, ring_least

SHAPE = SHAPES["qwen3-0.6b"] | {
    "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 6000,
}  # fmt: skip
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    shape = SHAPE | {"tie_word_embeddings": request.param}
    return write_random(tmp_path_factory.mktemp("plain") / "model", shape)


@pytest.fixture
def sealed(plain: Artifact, tmp_path: Path) -> Artifact:
    return write(tmp_path / "sealed", seal(plain, KEY))


def logits_of(tensors: Any, config: dict[str, Any]) -> np.ndarray:
    decoder = Decoder(tensors, config, Kernels(1), context=64)
    sequence = decoder.cache.sequence()
    first = decoder.step([(sequence, [1, 5000, 42])], every=True)[0]
    return np.concatenate([first, decoder.step([(sequence, [7])])[0]])


def streamed(artifact: Artifact, key: bytes, timeline: Timeline | None = None) -> Streamed:
    tensors, storage = unseal(artifact, key, timeline=timeline)
    stages = stages_of(tensors, SHAPE["num_hidden_layers"], band=300_000)
    locked = {stages[0].parts[0].name, stages[-1].parts[0].name}
    return Streamed(tensors, stages, locked=locked, ring_bytes=2 * ring_least(stages, ()), storage=storage)


def test_with_the_key_it_is_the_same_model(plain: Artifact, sealed: Artifact) -> None:
    want, timeline = logits_of(plain.tensors, plain.config), Timeline()
    assert np.array_equal(logits_of(streamed(sealed, KEY, timeline), sealed.config), want)
    tensors, storage = unseal(sealed, KEY)
    assert np.array_equal(logits_of(Resident(tensors, storage=storage), sealed.config), want)
    assert timeline.busy("decrypt") > 0


def test_no_weight_lies_in_it_plainly(plain: Artifact, sealed: Artifact) -> None:
    stored = (sealed.folder / "model.safetensors").read_bytes()
    for tensor in plain.tensors.values():
        data = tensor.array.tobytes()
        for at in range(0, len(data) - 64, max(64, len(data) // 20)):
            assert len(set(data[at : at + 64])) < 8 or data[at : at + 64] not in stored
    assert sealed.config == plain.config


def test_it_is_what_the_standard_says(plain: Artifact, sealed: Artifact) -> None:
    """Opened by hand, with one-shot AES-GCM."""
    name = sorted(plain.tensors)[3]
    form = sealed.tensors[name].format
    derived = HKDF(hashes.SHA256(), 32, base64.b64decode(form["salt"]), b"ondevice sealed artifact 1").derive(
        KEY
    )
    said = {
        "config": plain.config, "tokenizer": plain.tokenizer_json, "task": plain.task,
        "forms": {each: tensor.format for each, tensor in plain.tensors.items()},
    }  # fmt: skip
    context = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()
    stored, tags, opened = sealed.tensors[name].array, base64.b64decode(form["tags"]), b""
    for segment, at in enumerate(range(0, stored.size, form["unit"])):
        nonce = (3).to_bytes(4, "big") + segment.to_bytes(8, "big")
        data = stored[at : at + form["unit"]].tobytes() + tags[16 * segment : 16 * segment + 16]
        opened += AESGCM(derived).decrypt(nonce, data, context + f"{segment}/{name}".encode())
    assert opened == plain.tensors[name].array.tobytes()


def test_two_sealings_share_nothing(plain: Artifact) -> None:
    one, two = seal(plain, KEY), seal(plain, KEY)
    for name, tensor in one.tensors.items():
        assert tensor.nbytes < 64 or not np.array_equal(tensor.array, two.tensors[name].array)


def test_another_key_opens_nothing(sealed: Artifact) -> None:
    with pytest.raises(BadArtifact, match="the key is another one"):
        logits_of(streamed(sealed, OTHER), sealed.config)


def test_without_a_key_it_is_not_used(sealed: Artifact) -> None:
    with pytest.raises(BadInput, match="sealed"):
        logits_of(sealed.tensors, sealed.config)
    with pytest.raises(BadInput, match="sealed already"):
        seal(sealed, KEY)
    assert is_sealed(sealed)
    sealed.verify()  # its checksums are those of what lies there


def forge(sealed: Artifact, where: Path, change: Any) -> Artifact:
    """The artifact with changed tensors, and checksums to go with them: what somebody who may write files can do."""
    from ondevice.artifact import Contents, StoredTensor

    tensors = {
        name: StoredTensor(json.loads(json.dumps(tensor.format)), tensor.array.copy())
        for name, tensor in sealed.tensors.items()
    }
    config = json.loads(json.dumps(sealed.config))
    change(tensors, config)
    contents = Contents(config, sealed.tokenizer_json, sealed.task, tensors)
    return write(where, contents)


A, B = "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"


def swap(tensors: Any, config: Any) -> None:
    tensors[A], tensors[B] = tensors[B], tensors[A]


def swap_bytes(tensors: Any, config: Any) -> None:
    tensors[A].array[:], tensors[B].array[:] = tensors[B].array.copy(), tensors[A].array.copy()


def leave_out(tensors: Any, config: Any) -> None:
    del tensors["model.layers.1.self_attn.q_norm.weight"]


def other_epsilon(tensors: Any, config: Any) -> None:
    config["rms_norm_eps"] = 0.5


def fewer_tags(tensors: Any, config: Any) -> None:
    tensors[A].format["tags"] = tensors[A].format["tags"][:16]


def other_unit(tensors: Any, config: Any) -> None:
    tensors[A].format["unit"] *= 2


@pytest.mark.parametrize("change", [swap, swap_bytes, leave_out, other_epsilon, fewer_tags, other_unit])
def test_no_forgery_goes_unseen(sealed: Artifact, tmp_path: Path, change: Any) -> None:
    forged = forge(sealed, tmp_path / "forged", change)
    with pytest.raises(BadInput):
        logits_of(streamed(forged, KEY), forged.config)


def test_no_flipped_bit_goes_unseen(sealed: Artifact, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = sorted(sealed.tensors)
    for trial in range(25):
        name = names[int(random.integers(len(names)))]

        def flip(tensors: Any, config: Any, name: str = name) -> None:
            at = int(random.integers(tensors[name].array.size))
            tensors[name].array[at] ^= np.uint8(1 << int(random.integers(8)))

        forged = forge(sealed, tmp_path / f"{trial}", flip)
        with pytest.raises(BadArtifact, match=r"cannot be decrypted"):
            logits_of(streamed(forged, KEY), forged.config)


def test_a_key_is_long_enough(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 31)
    with pytest.raises(BadInput, match="needs 32 random"):
        read_key(tmp_path / "short")
    with pytest.raises(BadInput, match="cannot be read"):
        read_key(tmp_path / "missing")


def test_thousands_of_flipped_bits_are_found(sealed: Artifact) -> None:
    """In segments and in tags, by the tensors themselves: `test_no_flipped_bit_goes_unseen` goes through files."""
    tensors, _ = unseal(sealed, KEY)
    random, names = np.random.default_rng(1), sorted(tensors)
    for _ in range(5000):
        tensor, tags = tensors[names[int(random.integers(len(names)))]], None
        stored = np.array(sealed.tensors[tensor.name].array)
        segment = int(random.integers(-(-stored.size // tensor.place.unit)))
        part = stored[segment * tensor.place.unit :][: tensor.place.unit]
        if random.random() < 0.2:
            at = segment * 16 + int(random.integers(16))
            tags = bytearray(tensor.tags)
            tags[at] ^= 1 << int(random.integers(8))
            tensor = replace(tensor, tags=bytes(tags))
        else:
            part[int(random.integers(part.size))] ^= np.uint8(1 << int(random.integers(8)))
        with pytest.raises(BadArtifact):
            tensor.decrypt(segment, part)
