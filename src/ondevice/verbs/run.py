"""run: texts through a finished artifact, or text from a language model. Needs the base install only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.verbs.open import open, open_language

if TYPE_CHECKING:
    from ondevice.models.tasks import Floats
    from ondevice.runtime.decode.sampling import Sampling
    from ondevice.runtime.decode.spelling import Piece


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


def write(
    model: str | Path,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    sampling: Sampling | None = None,
    limit: int = 256,
    stop: Sequence[str] = (),
    threads: int | None = None,
    context: int | None = None,
) -> Iterator[Piece]:
    """Text of a language model, piece by piece; see `ondevice.open_language` for many calls.

    prompt: a text to go on with, or messages [{"role", "content"}, ...] for a model with a chat template.
    sampling: greedy unless given. limit: most tokens. stop: strings that end the text.
    """
    with open_language(model, threads=threads, context=context) as session:
        settings: dict[str, Any] = {"sampling": sampling, "limit": limit, "stop": stop}
        if isinstance(prompt, str):
            yield from session.generate(prompt, **settings)
        else:
            yield from session.chat(prompt, **settings)
