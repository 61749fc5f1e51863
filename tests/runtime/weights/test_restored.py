"""Weights that come back while the first text is read: the same logits as those that were there, whatever the order."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.artifact import Artifact, write
from ondevice.devices.storage import ThrottledStorage
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.io import FileStorage
from ondevice.runtime.schedule.restoration import POLICIES, Policy
from ondevice.runtime.weights.encrypted import seal, unseal
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.restored import OwnMemory, Restored
from ondevice.runtime.weights.shapes import SHAPES

LAYERS = 3
SHAPE = SHAPES["qwen3-0.6b"] | {
    "num_hidden_layers": LAYERS, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 96000,
}  # fmt: skip
KEY, PROMPT = bytes(range(32)), [1, 5000, 42, 7, 7]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    shape = SHAPE | {"tie_word_embeddings": request.param}
    return write_random(tmp_path_factory.mktemp("plain") / "model", shape, bits=8)


@pytest.fixture(scope="module")
def sealed(plain: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write(tmp_path_factory.mktemp("sealed") / "model", seal(plain, KEY))


def logits_of(tensors: Any, config: Any, times: int = 1) -> np.ndarray:
    decoder = Decoder(tensors, config, Kernels(1), context=64)
    for _ in range(times):
        sequence = decoder.cache.sequence()
        first = decoder.step([(sequence, PROMPT)], every=True)[0]
        last = decoder.step([(sequence, [3])])[0]
        sequence.free()
    return np.concatenate([first, last])


def restored(sealed: Artifact, **settings: Any) -> Restored:
    return Restored(unseal(sealed, KEY)[0], LAYERS, **settings)


@pytest.mark.parametrize("policy", POLICIES)
def test_logits_are_those_of_weights_that_were_there(
    plain: Artifact, sealed: Artifact, policy: Policy
) -> None:
    want, timeline = logits_of(plain.tensors, plain.config), Timeline()
    source = restored(sealed, policy=policy, timeline=timeline)
    assert source.bytes_resident < 0.01 * source.nbytes
    assert np.array_equal(logits_of(source, sealed.config, times=2), want)
    assert source.bytes_resident == source.nbytes
    assert source.bytes_read == sum(tensor.nbytes for tensor in plain.tensors.values())  # once, in two passes
    assert all(timeline.busy(lane) > 0 for lane in ("alloc", "read", "decrypt", "cpu", "npu"))
    assert np.array_equal(logits_of(Restored(plain.tensors, LAYERS, policy=policy), plain.config), want)


def test_what_is_given_back_is_wiped_from_the_end_and_comes_again(plain: Artifact, sealed: Artifact) -> None:
    supplies = []

    def supply(nbytes: int) -> OwnMemory:
        supplies.append(OwnMemory(nbytes))
        return supplies[0]

    source = restored(sealed, supply=supply)
    want = logits_of(plain.tensors, plain.config)
    decoder = Decoder(source, sealed.config, Kernels(1), context=64)
    for keep in (0.5, 0.0, 1.0, 0.3):
        before = source.bytes_read
        sequence = decoder.cache.sequence()
        held = source.bytes_resident
        assert np.array_equal(decoder.step([(sequence, PROMPT)], every=True)[0], want[: len(PROMPT)])
        sequence.free()
        assert source.bytes_read - before <= source.nbytes - held
        source.give_back(keep)
        assert keep * source.nbytes - 9e6 <= source.bytes_resident <= max(keep, 0.01) * source.nbytes
        assert not supplies[0].memory[source.bytes_resident :].any()
    with pytest.raises(BadInput, match="from 0 to 1"):
        source.give_back(20)


def test_what_is_read_and_what_is_computed_overlap(sealed: Artifact) -> None:
    """On a storage that takes a while, the serial order waits for all of it before the first product."""
    spans = {}
    for policy in ("serial", "preempt"):
        timeline = Timeline()
        slow = lambda nbytes: OwnMemory(nbytes, ThrottledStorage(FileStorage(), 100e6))  # noqa: E731
        logits_of(restored(sealed, supply=slow, policy=policy, timeline=timeline), sealed.config)
        reads = max(span.end for span in timeline.spans if span.lane == "read")
        spans[policy] = reads, min(span.start for span in timeline.spans if span.lane == "npu")
    assert spans["serial"][0] < spans["serial"][1]
    assert spans["preempt"][0] > spans["preempt"][1]


@pytest.mark.parametrize("which", ["self_attn.k_proj", "mlp.down_proj", "embed_tokens", "input_layernorm"])
def test_an_altered_byte_ends_it_and_leaves_nothing(sealed: Artifact, which: str, tmp_path: Path) -> None:
    from ondevice.artifact import Contents, StoredTensor

    tensors = {name: StoredTensor(dict(it.format), np.array(it.array)) for name, it in sealed.tensors.items()}
    name = next(name for name in tensors if which in name and "layers.0" not in name)
    tensors[name].array[tensors[name].array.size // 2] ^= 4
    forged = write(tmp_path / "forged", Contents(sealed.config, sealed.tokenizer_json, sealed.task, tensors))
    supplies = list[OwnMemory]()
    before = threading.active_count()

    def supply(nbytes: int) -> OwnMemory:
        supplies.append(OwnMemory(nbytes))
        return supplies[-1]

    with pytest.raises(BadArtifact, match="cannot be decrypted"):
        logits_of(restored(forged, supply=supply), sealed.config)
    if which != "input_layernorm":  # that is read at once, so that there never was a source
        assert np.count_nonzero(supplies[0].memory) < 0.01 * supplies[0].memory.size
    assert threading.active_count() == before


def test_another_key_opens_nothing(sealed: Artifact) -> None:
    with pytest.raises(BadArtifact, match="the key is another one"):
        logits_of(Restored(unseal(sealed, KEY[::-1])[0], LAYERS), sealed.config)


def test_a_truncated_file_is_an_error_and_the_next_pass_begins_anew(sealed: Artifact, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(sealed.folder, copy)
    artifact = Artifact(copy)
    source = Restored(unseal(artifact, KEY)[0], LAYERS)
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    decoder = Decoder(source, artifact.config, Kernels(1), context=64)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadArtifact, match="copy it again"):
        decoder.step([(decoder.cache.sequence(), PROMPT)])
    weights.write_bytes(whole)
    again = Decoder(Restored(unseal(artifact, KEY)[0], LAYERS), artifact.config, Kernels(1), context=64)
    assert np.array_equal(
        decoder.step([(decoder.cache.sequence(), PROMPT)])[0],
        again.step([(again.cache.sequence(), PROMPT)])[0],
    )
