"""The native backend: artifacts through sessions, against torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ondevice.artifact import Artifact, Contents, write
from ondevice.backends.native import open_artifact
from ondevice.backends.torch import TorchSession
from ondevice.compress.quantize.quantize import Quantize
from ondevice.errors import BadArtifact, BadInput
from ondevice.layers.store import to_stored
from ondevice.models.load import load
from ondevice.models.model import Model

Write = Callable[..., Path]


def written(model: Model, folder: Path, task: dict[str, object] | None = None) -> Artifact:
    contents = Contents(
        model.config, model.tokenizer.to_str(), task or model.task.to_json(), to_stored(model.module)
    )
    return write(folder, contents)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_embeddings_match_torch(
    tiny_checkpoint: Write, sentences: list[str], tmp_path: Path, pooling: str
) -> None:
    model = load(tiny_checkpoint("bert", pooling=pooling))
    artifact = written(model, tmp_path / "artifact")
    with open_artifact(artifact, threads=2) as session, TorchSession(model) as oracle:
        np.testing.assert_allclose(session.embed(sentences), oracle.embed(sentences), atol=1e-5)


def test_probabilities_match_torch(tiny_checkpoint: Write, sentences: list[str], tmp_path: Path) -> None:
    model = load(tiny_checkpoint("roberta", head="ForSequenceClassification"))
    artifact = written(model, tmp_path / "artifact")
    with open_artifact(artifact) as session, TorchSession(model) as oracle:
        np.testing.assert_allclose(session.classify(sentences), oracle.classify(sentences), atol=1e-5)


def test_quantised_artifacts_run_without_torch(
    tiny_checkpoint: Write, sentences: list[str], tmp_path: Path
) -> None:
    model = Quantize(bits=6, method="rtn", smooth=0).apply(
        load(tiny_checkpoint("bert", hidden_size=64, pooling="mean"))
    )
    artifact = written(model, tmp_path / "artifact")
    with open_artifact(artifact, threads=1) as session:
        expected = session.embed(sentences)
    code = f"""
import sys
for name in ("torch", "transformers", "scipy", "sentence_transformers"):
    sys.modules[name] = None
import numpy as np
from ondevice.artifact import Artifact
from ondevice.backends.native import open_artifact
with open_artifact(Artifact({str(tmp_path / "artifact")!r})) as session:
    np.save({str(tmp_path / "out.npy")!r}, session.embed({sentences!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_a_closed_session_says_so(tiny_checkpoint: Write, sentences: list[str], tmp_path: Path) -> None:
    session = open_artifact(written(load(tiny_checkpoint("bert")), tmp_path / "artifact"))
    session.close()
    session.close()
    with pytest.raises(BadInput, match="closed"):
        session.embed(sentences)
    with pytest.raises(BadInput, match="closed"):
        session.hidden([[2, 3]])


def test_artifacts_that_cannot_do_their_task_are_refused(tiny_checkpoint: Write, tmp_path: Path) -> None:
    model = load(tiny_checkpoint("bert"))
    task = model.task.to_json() | {"kind": "classification", "labels": ["a", "b"]}
    with pytest.raises(BadArtifact, match="classification head"):
        open_artifact(written(model, tmp_path / "artifact", task))
