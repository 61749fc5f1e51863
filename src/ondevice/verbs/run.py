"""run: texts through a finished artifact. Needs the base install only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.verbs.open import open

if TYPE_CHECKING:
    from ondevice.models.tasks import Floats


@dataclass(frozen=True)
class RunResult:
    """embeddings, float32 (texts, dimension), or probabilities, float32 (texts, labels) of `labels`."""

    texts: tuple[str, ...]
    embeddings: Floats | None
    probabilities: Floats | None
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        if self.embeddings is not None:
            return {"embeddings": self.embeddings.tolist()}
        assert self.probabilities is not None
        return {
            "classes": [
                {
                    "label": self.labels[int(row.argmax())],
                    "probabilities": dict(zip(self.labels, row.tolist())),
                }
                for row in self.probabilities
            ]
        }


def run(
    artifact: str | Path, texts: Sequence[str], *, backend: str = "native", threads: int | None = None
) -> RunResult:
    """Embed or classify texts, as the artifact's task says; see `ondevice.open` for many calls."""
    with open(artifact, backend, threads=threads) as session:
        if session.task.kind == "embedding":
            return RunResult(tuple(texts), session.embed(texts), None)
        return RunResult(tuple(texts), None, session.classify(texts), session.task.labels)
