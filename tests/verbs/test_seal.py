"""A sealed model writes what the plain one does, for who has the key, within memory that does not hold it too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ondevice.artifact import Contents, StoredTensor, write
from ondevice.errors import BadInput
from ondevice.measure.memory import run_command
from ondevice.models import zoo
from ondevice.runtime.budget import resident_bytes
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.verbs.run import open_within
from ondevice.verbs.seal import seal

SHAPE = SHAPES["qwen3-0.6b"] | {
    "num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 2304, "vocab_size": 8192,
}  # fmt: skip

_WRITE = """
import json, sys
from ondevice.verbs.run import open_within
with open_within(sys.argv[1], sys.argv[2], threads=1, context=100, key_file=sys.argv[3]) as session:
    tokens = [each.token for each in session.engine.stream([*range(3, 40)], limit=4)]
    json.dump([tokens, session.residency.streamed], open(sys.argv[4], "w"))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ "plain", "sealed" and "key"."""
    root = tmp_path_factory.mktemp("models")
    config, tensors = random_decoder(SHAPE, bits=8)
    stored = {name: StoredTensor(tensor.format, tensor.array) for name, tensor in tensors.items()}
    tokenizer = (zoo.locate("reference-lm") / "tokenizer.json").read_text()
    task: dict[str, Any] = {"kind": "language", "max_length": 100}
    write(root / "plain", Contents(config, tokenizer, task, stored))
    (root / "key").write_bytes(np.random.default_rng(0).bytes(32))
    command = [sys.executable, "-m", "ondevice", "seal", root / "plain", "--key-file", root / "key", "--out"]
    subprocess.run([*command, root / "sealed"], check=True)
    return {name: root / name for name in ("plain", "sealed", "key")}


def tokens_of(model: Path, **opening: Any) -> list[int]:
    with open_within(model, None, threads=1, context=100, **opening) as session:
        return [each.token for each in session.engine.stream([*range(3, 40)], limit=4)]


def test_the_same_tokens_with_the_key(models: dict[str, Path]) -> None:
    assert tokens_of(models["sealed"], key_file=models["key"]) == tokens_of(models["plain"])


def test_the_same_tokens_within_memory_that_does_not_hold_it(models: dict[str, Path], tmp_path: Path) -> None:
    limit = 140_000_000
    command = [sys.executable, "-c", _WRITE, models["sealed"], str(limit), models["key"], tmp_path / "said"]
    run = run_command([str(each) for each in command], timeout=300)
    tokens, streamed = json.loads((tmp_path / "said").read_text())
    assert tokens == tokens_of(models["plain"])
    assert streamed > 20_000_000
    assert run.peak_bytes <= limit


def test_the_same_text_where_weights_come_back_for_each(models: dict[str, Path]) -> None:
    """Of what is decrypted only a share is left between two texts, and it saves its reads."""

    def tell(session: Any) -> list[int]:
        return [piece.token for piece in session.generate("the file", limit=4)]

    with open_within(models["plain"], None, threads=1, context=100) as session:
        want = tell(session)
    opening: dict[str, Any] = {"threads": 1, "context": 100, "key_file": models["key"]}
    with open_within(models["sealed"], None, **opening, keep_decrypted="40%") as session:
        weights, _ = session._restored
        for _ in range(2):
            before, held = weights.bytes_read, weights.bytes_resident
            assert tell(session) == want
            assert weights.bytes_read - before <= weights.nbytes - held
            assert weights.bytes_resident <= 0.4 * weights.nbytes
    with pytest.raises(BadInput, match="leave out keep_decrypted"):
        open_within(models["plain"], None, threads=1, context=100, keep_decrypted=0.2)
    streaming = resident_bytes() + 100_000_000  # more than the least, and less than all of it
    with pytest.raises(BadInput, match="leave out keep_decrypted"):
        open_within(models["sealed"], streaming, **opening, keep_decrypted=0.2)


def test_keys_that_are_missing_wrong_or_needless_are_named(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="give its key with --key-file"):
        tokens_of(models["sealed"])
    with pytest.raises(BadInput, match="is not sealed"):
        tokens_of(models["plain"], key_file=models["key"])
    (tmp_path / "other").write_bytes(bytes(32))
    with pytest.raises(BadInput, match="the key is another one"):
        tokens_of(models["sealed"], key_file=tmp_path / "other")
    with pytest.raises(BadInput, match="sealed already"):
        seal(models["sealed"], models["key"], out=tmp_path / "twice")
    assert not (tmp_path / "twice").exists()
    command = [sys.executable, "-m", "ondevice", "run", models["sealed"], "--prompt", "x"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--key-file" in refused.stderr
