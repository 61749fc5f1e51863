"""run: texts through a finished artifact, or text from a language model. Needs the base install only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.errors import BadInput, BudgetNotMet
from ondevice.verbs.open import check_settings, language_folder, open

if TYPE_CHECKING:
    from ondevice.backends.language import Files, LanguageSession
    from ondevice.kernels import CacheDtype
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
    memory: str | int | None = None,
    expert_memory: str | int | None = None,
    cache: CacheDtype = "float16",
    key_file: str | Path | None = None,
) -> Iterator[Piece]:
    """Text of a language model, piece by piece; see `ondevice.open_language` for many calls.

    prompt: a text to go on with, or messages [{"role", "content"}, ...] for a model with a chat template.
    sampling: greedy unless given. limit: most tokens. stop: strings that end the text. memory, expert_memory: see
    `open_within`. cache, key_file: see `ondevice.open_language`.
    """
    opening: dict[str, Any] = {"threads": threads, "context": context, "cache": cache, "key_file": key_file}
    with open_within(model, memory, expert_memory=expert_memory, **opening) as session:
        settings: dict[str, Any] = {"sampling": sampling, "limit": limit, "stop": stop}
        if isinstance(prompt, str):
            yield from session.generate(prompt, **settings)
        else:
            yield from session.chat(prompt, **settings)


def open_within(
    model: str | Path,
    memory: str | int | None,
    *,
    expert_memory: str | int | None = None,
    threads: int | None = None,
    context: int | None = None,
    keep: int = 0,
    cache: CacheDtype = "float16",
    key_file: str | Path | None = None,
    draft: str | None = None,
    quality: float | None = None,
    keep_decrypted: str | float | None = None,
) -> LanguageSession:
    """A session on a language model for one text at a time, in a process that stays within so much memory.

    memory: such as "600MB", of the whole process; None for no limit. It is planned before the weights are loaded:
    where no context is asked for, the longest that fits is taken; where the weights do not fit, a mixture's experts
    are read when they are called, and the session's `expert_plan` says so; of other models some weights are streamed
    from storage for every token, and its `residency` says which. expert_memory: such as "2GB", of the experts alone;
    the session's `experts.stats` tell what became of it. keep: how many texts that have ended a new one may go on from.
    cache, key_file: see `ondevice.open_language`. draft: see `ondevice.speculate`; what it
    takes is planned for too. quality: see `LanguageSession.lean`. keep_decrypted: of a sealed decoder, such as "20%":
    its weights come back while a text is read, and are wiped after it but for this share.
    Raises BudgetNotMet where it does not fit, with what would; BadInput for expert_memory
    with a dense model, or too little for one token.
    """
    from ondevice.backends.language import LanguageSession, read_files
    from ondevice.backends.native import processors
    from ondevice.devices.budget import parse_bytes, parse_share
    from ondevice.verbs.speculate import reserved, speculate

    check_settings(threads, context, cache)
    files = read_files(language_folder(model) or Path(model), key_file)
    opening: dict[str, Any] = {"threads": threads or processors(), "keep": keep, "cache": cache}
    limit = None if memory is None else parse_bytes(memory, "memory") - reserved(draft, model, files.config)
    of_experts = None if expert_memory is None else parse_bytes(expert_memory, "expert memory")
    if keep_decrypted is not None:
        opening["keep_decrypted"] = parse_share(keep_decrypted, "the share to keep decrypted")
    opening |= _planned(files, limit, of_experts, {"context": context, "cache_dtype": cache})
    session = LanguageSession.of(files, **opening)
    if draft is not None:
        speculate(session, draft, model=model, threads=threads)
    if quality is not None:
        session.lean(quality)
    return session


def _planned(
    files: Files, limit: int | None, of_experts: int | None, sizes: dict[str, Any]
) -> dict[str, Any]:
    """How `LanguageSession.of` opens a model within these limits. sizes: the context and the cache's dtype."""
    from ondevice.runtime.budget import plan_memory
    from ondevice.runtime.encdec import FAMILY
    from ondevice.runtime.expert_memory import plan_experts
    from ondevice.runtime.residency import plan_residency

    if of_experts is not None:
        plan = plan_experts(files.tensors, files.config, experts=of_experts, limit=limit, **sizes)
        return {"experts": plan}
    if limit is None:
        return {"context": sizes["context"]}
    try:
        return {"context": plan_memory(files.tensors, files.config, limit, **sizes).context}
    except BudgetNotMet as resident:
        if files.config.get("model_type") == FAMILY:
            raise  # weights of a decoder only are streamed
        with suppress(BadInput, BudgetNotMet):  # dense, or too little for the experts of a token
            return {"experts": plan_experts(files.tensors, files.config, limit=limit, **sizes)}
        try:
            return {"residency": plan_residency(files.tensors, files.config, limit, **sizes)}
        except BudgetNotMet as streamed:
            raise BudgetNotMet(f"{resident}; {streamed}", limit="memory") from None


@contextmanager
def prompt_cache(session: LanguageSession, model: str | Path, path: str | Path) -> Iterator[None]:
    """While the block runs, `session` (of `open_within` with keep) goes on from the text in a file where a prompt
    begins like it; the text that was last then is written to it.

    A file that is damaged or of another model is passed over with a warning. What is written is the same in any case.
    """
    from ondevice.runtime.kv import saved

    key, kept = _checksum(language_folder(model) or Path(model)), session.engine.kept
    found = saved.load(path, key, session.engine.decoder.cache)
    if found:
        kept.keep(*found)
    yield
    latest = kept.latest()
    if latest and not (found and latest[0] == found[0]):
        saved.save(path, key, *latest)


def _checksum(model: Path) -> str:
    """Of a model's configuration and weights."""
    files = [model]
    if model.is_dir():
        files = [model / "config.json", *sorted(model.glob("*.safetensors"))]
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
