"""The HTTP application: OpenAI's endpoints, health and metrics.

Knows Starlette and the worker. Knows nothing of models: tokenizer, template and worker are handed in.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ondevice.errors import BadInput, Busy
from ondevice.runtime.chat import ChatTemplate
from ondevice.runtime.decode.spelling import Piece
from ondevice.runtime.engine import Engine
from ondevice.runtime.server.requests import Asked, Refused, read
from ondevice.runtime.server.worker import Update, Worker

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Served:
    """What is served. name: the model's, as clients ask for it. ends: tokens that end an answer."""

    name: str
    engine: Engine
    tokenizer: Any
    template: ChatTemplate | None
    ends: frozenset[int]


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. slots: texts at once; queue: texts that may wait. seconds: of one answer, and
    body_seconds of its request's arrival. tokens: most tokens of an answer, also where none are asked for."""

    body: int = 1_000_000
    slots: int = 64
    queue: int = 256
    seconds: float = 600.0
    body_seconds: float = 20.0
    tokens: int = 1024


class Api:
    """The endpoints of one model. key: what clients must send as a bearer token; None for no key."""

    def __init__(self, served: Served, *, key: str | None = None, limits: Limits | None = None) -> None:
        self.served, self.limits, self._key = served, limits or Limits(), key
        self.worker = Worker(
            served.engine, served.tokenizer, served.ends, slots=self.limits.slots, queue=self.limits.queue
        )
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ondevice_requests",
            "Requests by endpoint and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._first = Histogram(
            "ondevice_first_token_seconds", "From request to first token.", registry=self._registry
        )
        self._whole = Histogram(
            "ondevice_answer_seconds", "From request to last token.", registry=self._registry
        )
        self._registry.register(_Gauges(self))  # type: ignore[arg-type]

    def app(self) -> Starlette:
        @asynccontextmanager
        async def life(_: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self.worker.close)

        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded("chat", self._chat), methods=["POST"]),
                Route("/v1/completions", self._guarded("completions", self._completions), methods=["POST"]),
                Route("/v1/models", self._guarded("models", self._models)),
                Route("/v1/models/{name:path}", self._guarded("models", self._model)),
                Route("/health", self._health),
                Route("/metrics", self._guarded("metrics", self._metrics)),
            ],
            lifespan=life,
            exception_handlers={404: _no_such_path, 405: _no_such_path},
        )

    def _guarded(self, name: str, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with the key checked, and errors as OpenAI's clients read them."""

        async def guarded(request: Request) -> Response:
            response: Response
            try:
                sent = request.headers.get("authorization", "").removeprefix("Bearer ")
                if self._key is not None and not secrets.compare_digest(sent.encode(), self._key.encode()):
                    response = _error(
                        401, "a wrong key or none; send it as a bearer token", "invalid_api_key"
                    )
                else:
                    response = await endpoint(request)
            except Refused as problem:
                response = _error(400, str(problem), "invalid_request", problem.field)
            except Busy as problem:
                response = _error(503, str(problem), "overloaded", kind="server_error")
                response.headers["retry-after"] = "1"
            except BadInput as problem:
                response = _error(400, str(problem), "invalid_request")
            except ClientDisconnect:
                response = Response(status_code=499)
            self._requests.labels(name, str(response.status_code)).inc()
            return response

        return guarded

    async def _chat(self, request: Request) -> Response:
        asked = read(await self._body(request), chat=True)
        if self.served.template is None:
            raise Refused("this model has no chat template; use /v1/completions", "messages")
        assert isinstance(asked.prompt, list)
        text = self.served.template.render(asked.prompt)
        ids = self.served.tokenizer.encode(text, add_special_tokens=False).ids
        return await self._answer(request, asked, ids, _ChatForm(asked, self.served.name))

    async def _completions(self, request: Request) -> Response:
        asked = read(await self._body(request), chat=False)
        ids = self.served.tokenizer.encode(asked.prompt).ids
        return await self._answer(request, asked, ids, _TextForm(asked, self.served.name))

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._know(request.path_params["name"])
        return JSONResponse(self._card())

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok", "running": self.worker.running, "waiting": self.worker.waiting})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type="text/plain; version=0.0.4")

    async def _answer(self, request: Request, asked: Asked, ids: list[int], form: _Form) -> Response:
        self._know(asked.model)
        room = self.served.engine.decoder.context - len(ids)
        limit = min(asked.limit or self.limits.tokens, self.limits.tokens, max(room, 1))
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[Update]()

        def deliver(update: Update) -> None:
            loop.call_soon_threadsafe(updates.put_nowait, update)

        number = self.worker.submit(ids, asked.sampling, limit, asked.stop, deliver)
        form.prompt_tokens = len(ids)
        answer = self._updates(number, updates)
        if asked.stream:
            return StreamingResponse(
                _events(answer, form), media_type="text/event-stream", headers={"cache-control": "no-store"}
            )
        gone = asyncio.create_task(_disconnected(request))
        try:
            return await _whole(answer, form, gone)
        finally:
            gone.cancel()
            await answer.aclose()

    async def _updates(self, number: int, updates: asyncio.Queue[Update]) -> AsyncGenerator[Update]:
        """What the worker says of one text; whoever stops listening ends it."""
        start, first = time.monotonic(), True
        try:
            while True:
                left = start + self.limits.seconds - time.monotonic()
                update = await asyncio.wait_for(updates.get(), max(left, 0))
                if first and update.pieces:
                    self._first.observe(time.monotonic() - start)
                    first = False
                yield update
                if update.finish:
                    self._whole.observe(time.monotonic() - start)
                    return
        except TimeoutError:
            yield Update([], "error", f"the answer took longer than the limit of {self.limits.seconds:g} s")
        finally:
            self.worker.cancel(number)

    async def _body(self, request: Request) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.body:
                        raise Refused(f"the body is larger than the limit of {self.limits.body} bytes")
        except TimeoutError as problem:
            raise Refused(f"the body did not arrive within {self.limits.body_seconds:g} s") from problem
        try:
            return json.loads(bytes(body))
        except (ValueError, RecursionError) as problem:
            raise Refused(f"the body is not JSON: {problem}") from problem

    def _know(self, name: str) -> None:
        if name != self.served.name:
            raise Refused(f"the model {name!r} is not served; there is: {self.served.name}", "model")

    def _card(self) -> dict[str, Any]:
        return {"id": self.served.name, "object": "model", "created": 0, "owned_by": "ondevice"}


class _Gauges:
    """Figures that are read when they are asked for."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def collect(self) -> Any:
        cache = self._api.served.engine.decoder.cache
        for name, what, value in (
            ("running", "Texts that are being written.", self._api.worker.running),
            ("waiting", "Texts that wait for a slot.", self._api.worker.waiting),
            ("tokens_written_total", "Tokens written since the start.", self._api.worker.tokens_written),
            ("cache_bytes", "Bytes of the key-value cache in use.", cache.bytes_used),
            ("cache_bytes_limit", "Bytes of the key-value cache.", cache.nbytes),
        ):
            yield GaugeMetricFamily(f"ondevice_{name}", what, value=value)


class _Form(ABC):
    """How an answer is written as JSON."""

    kind, chunk_kind, prefix = "", "", ""

    def __init__(self, asked: Asked, model: str) -> None:
        self.asked, self.model = asked, model
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())
        self.prompt_tokens = self.tokens = 0

    def whole(self, pieces: list[Piece], finish: str) -> dict[str, Any]:
        return self._head(self.kind) | {
            "choices": [{"index": 0, "finish_reason": finish} | self.message(pieces)],
            "usage": self.usage(),
        }

    def chunk(self, pieces: list[Piece], finish: str | None, *, first: bool) -> dict[str, Any]:
        choice = {"index": 0, "finish_reason": finish} | self.delta(pieces, first)
        return self._head(self.chunk_kind) | {"choices": [choice]}

    def last(self) -> dict[str, Any]:
        """The chunk that only counts."""
        return self._head(self.chunk_kind) | {"choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": total}

    @abstractmethod
    def message(self, pieces: list[Piece]) -> dict[str, Any]:
        """The part of a whole answer that differs between endpoints."""

    @abstractmethod
    def delta(self, pieces: list[Piece], first: bool) -> dict[str, Any]:
        """The same of one chunk of a stream."""

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class _ChatForm(_Form):
    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def message(self, pieces: list[Piece]) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": _text(pieces)},
            "logprobs": self._logprobs(pieces),
        }

    def delta(self, pieces: list[Piece], first: bool) -> dict[str, Any]:
        role = {"role": "assistant"} if first else {}
        return {"delta": role | {"content": _text(pieces)}, "logprobs": self._logprobs(pieces)}

    def _logprobs(self, pieces: list[Piece]) -> Any:
        if not self.asked.logprobs:
            return None
        return {
            "content": [
                {
                    "token": piece.text,
                    "logprob": piece.logprob,
                    "bytes": list(piece.text.encode()),
                    "top_logprobs": [],
                }
                for piece in pieces
            ]
        }


class _TextForm(_Form):
    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def message(self, pieces: list[Piece]) -> dict[str, Any]:
        logprobs = None
        if self.asked.logprobs:
            logprobs = {
                "tokens": [piece.text for piece in pieces],
                "token_logprobs": [piece.logprob for piece in pieces],
                "top_logprobs": None,
                "text_offset": [],
            }
        return {"text": _text(pieces), "logprobs": logprobs}

    def delta(self, pieces: list[Piece], first: bool) -> dict[str, Any]:
        return self.message(pieces)


async def _events(answer: AsyncIterator[Update], form: _Form) -> AsyncIterator[str]:
    first = True
    async for update in answer:
        form.tokens += len(update.pieces)
        if update.finish == "error":
            yield _event({"error": {"message": update.error, "type": "server_error"}})
            return
        yield _event(form.chunk(update.pieces, update.finish, first=first))
        first = False
    if form.asked.usage:
        yield _event(form.last())
    yield "data: [DONE]\n\n"


async def _whole(answer: AsyncIterator[Update], form: _Form, gone: asyncio.Task[None]) -> Response:
    pieces: list[Piece] = []
    finish = ""
    while not finish:
        following = asyncio.ensure_future(anext(answer))
        await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            following.cancel()
            raise ClientDisconnect
        update = following.result()
        pieces += update.pieces
        finish = update.finish or ""
        if finish == "error":
            return _error(500, update.error, "server_error", kind="server_error")
    form.tokens = len(pieces)
    return JSONResponse(form.whole(pieces, finish))


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)


async def _no_such_path(request: Request, _: Exception) -> Response:
    return _error(404, f"there is no {request.method} {request.url.path}", "not_found")


def _error(
    status: int, message: str, code: str, field: str | None = None, *, kind: str = "invalid_request_error"
) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": field, "code": code}}, status)


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
