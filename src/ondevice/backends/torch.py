"""The torch backend: an artifact as a torch module, the reference for every other way to run it.

Knows how an artifact becomes a `Model`. Integer activations are simulated exactly.
"""

from __future__ import annotations

from typing import Any

import torch

from ondevice.artifact import Artifact
from ondevice.backends.session import Session, Tokens, padded
from ondevice.errors import BadArtifact
from ondevice.layers.store import from_stored
from ondevice.models.load import skeleton
from ondevice.models.model import Model, Source
from ondevice.models.tasks import Floats, Task


def read_model(artifact: Artifact) -> Model:
    """The model in an artifact; further techniques can be applied to it."""
    from tokenizers import Tokenizer

    task = Task.from_json(artifact.task)
    source = Source(str(artifact.provenance.get("name", artifact.folder.name)),
                    str(artifact.provenance.get("revision", "")), artifact.licence)  # fmt: skip
    module = from_stored(skeleton(artifact.config, task), artifact.tensors).eval()
    return Model(module, Tokenizer.from_str(artifact.tokenizer_json), task, artifact.config, source)


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> TorchSession:
    return TorchSession(read_model(artifact), threads)


class TorchSession(Session):
    """Runs a `Model` by torch. threads: torch's own setting, which holds for the whole process."""

    backend = "torch"

    def __init__(self, model: Model, threads: int | None = None) -> None:
        super().__init__(model.tokenizer, model.task)
        self.model = model
        self.threads = threads

    def hidden(self, token_ids: Tokens) -> list[Floats]:
        states = self._run(token_ids).last_hidden_state.float().numpy()
        return [states[row, : len(tokens)] for row, tokens in enumerate(token_ids)]

    def logits(self, token_ids: Tokens) -> Floats:
        logits: Floats = self._run(token_ids).logits.float().numpy()
        return logits

    @torch.inference_mode()
    def _run(self, token_ids: Tokens) -> Any:
        if self.threads is not None and torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        ids, mask = padded(token_ids, int(self.model.config.get("pad_token_id") or 0))
        try:
            return self.model.module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
        except (RuntimeError, IndexError) as problem:
            raise BadArtifact(
                f"the model cannot run: its layers do not fit together ({problem})"
            ) from problem
