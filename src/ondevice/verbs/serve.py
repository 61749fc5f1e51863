"""serve: a model for the applications that people have, behind OpenAI's API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.errors import BadInput, MissingExtra
from ondevice.verbs.open import language_folder, open, open_language

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ondevice.backends.session import Session
    from ondevice.kernels import CacheDtype
    from ondevice.runtime.server.app import Api
    from ondevice.runtime.server.served import Embedder, Limits, Writer

_TOGETHER = 8  # texts of the whole context that the cache holds
_KEPT = 32  # texts that have ended and may be gone on with


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    name: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    cache: CacheDtype = "float16",
    memory: str | int | None = None,
    expert_memory: str | int | None = None,
    key_file: str | Path | None = None,
    speculate: str | None = None,
    quality: float | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve a model until the process is told to stop; running answers are finished first, within a limit.

    model: a language model (a folder, a file, or a name of the zoo), or one that embeds (an artifact, a checkpoint of
    the BERT family, or "minilm"). host: who may
    connect; the default is this machine alone, any other needs a key. key: what clients send as a bearer token.
    name: what they call the model; the folder's name unless given. context: longest text in tokens. cache: see
    `ondevice.open_language`. memory, expert_memory: most of the process, and of a mixture's experts alone, see
    `ondevice.verbs.run.open_within`; either holds the cache of one such text, which all share. key_file: of
    a sealed artifact. speculate: check guesses several in a pass, see `ondevice.speculate`; answers are the same.
    quality: of a model with bit routers, see `LanguageSession.lean`.
    """
    if host not in ("127.0.0.1", "::1", "localhost") and not key:
        raise BadInput(f"--host {host} lets other machines in; set a key that they must send")
    if not 0 <= port <= 65535:
        raise BadInput(f"port must lie between 0 and 65535, not {port}")
    try:
        import uvicorn

        from ondevice.runtime.server.patience import patient
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "to serve a model") from error
    opening: dict[str, Any] = {"threads": threads, "context": context, "cache": cache, "key_file": key_file}
    api = application(
        model, key=key, name=name, memory=memory, expert_memory=expert_memory,
        speculate=speculate, quality=quality, limits=limits, **opening,
    )  # fmt: skip
    uvicorn.run(
        api.app(),
        host=host,
        port=port,
        http=patient(api.limits.head_seconds),
        log_level="warning",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(api.limits.end_seconds),
        limit_concurrency=api.limits.slots + api.limits.queue + 64,
        h11_max_incomplete_event_size=65536,
    )


def application(
    model: str | Path,
    *,
    key: str | None = None,
    name: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    cache: CacheDtype = "float16",
    memory: str | int | None = None,
    expert_memory: str | int | None = None,
    key_file: str | Path | None = None,
    speculate: str | None = None,
    quality: float | None = None,
    limits: Limits | None = None,
) -> Api:
    """What `serve` serves: `.app()` is an ASGI application for any server."""
    try:
        from ondevice.runtime.server.app import Api
        from ondevice.runtime.server.served import Served
    except ImportError as error:
        raise MissingExtra(error.name or "starlette", "serve", "to serve a model") from error
    name = name or model_name(model)
    embedding = None if language_folder(model) else _embedding_session(model, threads)
    opening: dict[str, Any] = {"threads": threads, "context": context, "cache": cache, "key_file": key_file}
    served = Served(
        name,
        _embedder(embedding)
        if embedding
        else _writer(model, memory, expert_memory, speculate, quality, **opening),
    )
    return Api(served, key=key, limits=limits)


def model_name(model: str | Path) -> str:
    """What clients call a model that was given no other name: the folder's, or the file's without its ending."""
    return Path(model).absolute().name.removesuffix(".gguf")


def _writer(
    model: str | Path,
    memory: str | int | None,
    expert_memory: str | int | None,
    draft: str | None,
    quality: float | None,
    **opening: Any,
) -> Writer:
    from ondevice.runtime.engine import Engine
    from ondevice.runtime.server.served import Writer
    from ondevice.verbs.run import open_within
    from ondevice.verbs.speculate import speculate

    if memory is not None or expert_memory is not None:
        session = open_within(model, memory, expert_memory=expert_memory, draft=draft, keep=_KEPT, **opening)
        engine = session.engine
    else:
        session = open_language(model, texts=_TOGETHER, **opening)
        guesses = speculate(session, draft, model=model, threads=opening["threads"]) if draft else None
        engine = Engine(session.engine.decoder, keep=_KEPT, speculation=guesses)
    if quality is not None:
        session.lean(quality)
    return Writer(engine, session.tokenizer, session.template, session.ends)


def _embedding_session(model: str | Path, threads: int | None) -> Session | None:
    """A session on an artifact, on a checkpoint of the BERT family as it is, or on the packaged one of that name; None
    where it is none of them."""
    from ondevice.backends.native import open_checkpoint
    from ondevice.runtime.encoder import FAMILIES

    folder = Path(model)
    if (folder / "ondevice.json").is_file():
        return open(folder, threads=threads)
    if str(model) == "minilm" and not folder.exists():
        from ondevice.models.load import packaged

        folder = packaged("minilm")
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return open_checkpoint(folder, threads=threads) if family in FAMILIES else None


def _embedder(session: Session) -> Embedder:
    from ondevice.models.tasks import tokenize
    from ondevice.runtime.server.served import Embedder

    if session.task.kind != "embedding":
        raise BadInput(f"this is a model for {session.task.kind}; serve writes text and embeds")

    def count(texts: Sequence[str]) -> int:
        return sum(map(len, tokenize(session.tokenizer, texts, session.task.max_length)))

    return Embedder(session.embed, count)
