"""The native backend: an artifact, or a checkpoint as it is, on the project's own kernels, without torch.

Knows files and sessions; the architecture is `runtime.encoder`. Weights stay as they lie in the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ondevice.artifact import Artifact
from ondevice.backends.session import Session, Tokens
from ondevice.errors import BadArtifact, BadInput
from ondevice.kernels import Kernels
from ondevice.models.checkpoint import read_checkpoint
from ondevice.models.tasks import Floats, Task
from ondevice.runtime.encoder import Encoder
from ondevice.runtime.weights.safetensors import Checkpoint


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> NativeSession:
    """A session on an artifact. threads: all processors that this process may use unless told otherwise."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(artifact.tokenizer_json)
    except Exception as problem:  # `tokenizers` raises bare Exceptions
        raise BadArtifact(f"the tokenizer cannot be read: {problem}") from problem
    kernels = Kernels(threads if threads is not None else processors())
    encoder = Encoder(artifact.tensors, artifact.config, kernels)
    return NativeSession(encoder, tokenizer, Task.from_json(artifact.task))


def open_checkpoint(folder: Path, *, threads: int | None = None) -> NativeSession:
    """A session on a Hugging Face folder of the BERT family as it is. Raises UnsupportedModel for another family."""
    checkpoint = read_checkpoint(folder)
    kernels = Kernels(threads if threads is not None else processors())
    encoder = Encoder(Checkpoint(checkpoint.network), checkpoint.config, kernels)
    return NativeSession(encoder, checkpoint.tokenizer(), checkpoint.task())


def processors() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NativeSession(Session):
    """Runs an `Encoder`. Calls from several threads take turns."""

    backend = "native"

    def __init__(self, encoder: Encoder, tokenizer: Any, task: Task) -> None:
        super().__init__(tokenizer, task)
        if task.kind == "classification" and encoder.head is None:
            raise BadArtifact("the task is classification, but the artifact has no classification head")
        self._encoder: Encoder | None = encoder

    def hidden(self, token_ids: Tokens) -> list[Floats]:
        return self._open().hidden(token_ids)

    def logits(self, token_ids: Tokens) -> Floats:
        return self._open().logits(token_ids)

    def close(self) -> None:
        super().close()
        self._encoder = None  # lets go of the mapped weights and the threads

    def _open(self) -> Encoder:
        if self._encoder is None:
            raise BadInput("this session is closed; open a new one")
        return self._encoder
