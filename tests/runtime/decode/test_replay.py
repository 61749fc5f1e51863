"""Replaying a record: as many tokens as it says, in as many passes, on a decoder of any shape, streamed or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ondevice.artifact import Artifact
from ondevice.backends.peers.offloading import Guesses, Load, Policy, open_native
from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.runtime.budget import resident_bytes
from ondevice.runtime.decode.replay import Recorder, replay
from ondevice.runtime.decode.tree import Tree
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES

SMALL = {"num_hidden_layers": 2, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 256}
RATES = np.array([[0.4, 0.2], [0.4, 0.2]])
TRACE = [(0, 1), (), (3,), (0,)]  # of trees of four nodes: (0), (0, 0), (0, 1), (1)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay") / "pack"
    write_random(folder, SHAPES["qwen3-0.6b"] | SMALL, bits=8)
    return folder


def test_a_record_is_followed(pack: Path) -> None:
    artifact = Artifact(pack)
    decoder = Decoder(artifact.tensors, artifact.config, Kernels(1), context=200)
    seconds, written = replay(decoder, [1, 2, 3], TRACE, RATES, 4, 16)
    assert written == 16  # 3 + 1 + 2 + 2, twice
    assert seconds > 0
    assert replay(decoder, [1, 2, 3], [], RATES, 0, 5)[1] == 5
    assert decoder.cache.bytes_used == 0
    with pytest.raises(BadInput, match="no trace"):
        replay(decoder, [1], [], RATES, 4, 5)


def test_a_recorder_keeps_whole_trees_only() -> None:
    recorder = Recorder(2, rates=RATES)
    recorder.observed(Tree.chain([5, 6]), [0])
    recorder.observed(Tree.chain([5]), [0])
    assert recorder.trace == [(0,)]
    assert recorder.tokens_per_pass == 2.0
    assert recorder.guesses() == 2


def test_an_arm_whose_weights_are_streamed_replays_too(pack: Path) -> None:
    guesses, limit = Guesses(TRACE, RATES, 4), resident_bytes() + 200_000_000
    call, last = open_native(
        pack, Policy("none"), Load(prompt=8, tokens=8, threads=1), limit, None, None, guesses
    )
    assert call()["token"] > 0
    assert last()["streamed"] > 0
