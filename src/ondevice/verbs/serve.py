"""serve: a language model for the applications that people have, behind OpenAI's API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ondevice.errors import BadInput, MissingExtra
from ondevice.verbs.open import open_language

if TYPE_CHECKING:
    from ondevice.runtime.server.app import Api, Limits


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    name: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    limits: Limits | None = None,
) -> None:
    """Serve a language model until the process is told to stop; running answers are finished first.

    model: a Hugging Face folder of the Llama family, or a name of the zoo. host: who may connect; the default is
    this machine alone, any other needs a key. key: what clients send as a bearer token. name: what they call the
    model; the folder's name unless given. context: longest text in tokens.
    """
    if host not in ("127.0.0.1", "::1", "localhost") and not key:
        raise BadInput(f"--host {host} lets other machines in; set a key that they must send")
    if not 0 <= port <= 65535:
        raise BadInput(f"port must lie between 0 and 65535, not {port}")
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtra("uvicorn", "serve", "to serve a model") from error
    api = application(model, key=key, name=name, threads=threads, context=context, limits=limits)
    uvicorn.run(
        api.app(),
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=65536,
    )


def application(
    model: str | Path,
    *,
    key: str | None = None,
    name: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    limits: Limits | None = None,
) -> Api:
    """What `serve` serves: `.app()` is an ASGI application for any server."""
    try:
        from ondevice.runtime.server.app import Api, Served
    except ImportError as error:
        raise MissingExtra(error.name or "starlette", "serve", "to serve a model") from error
    session = open_language(model, threads=threads, context=context, texts=8)
    served = Served(
        name or Path(model).name, session.engine, session.tokenizer, session.template, session.ends
    )
    return Api(served, key=key, limits=limits)
