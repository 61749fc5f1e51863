"""The HTTP application: OpenAI's endpoints, health, metrics, and a page to chat on.

Knows Starlette and the worker. Knows nothing of models: tokenizer, template and engine are handed in.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ondevice.errors import BadInput, Busy, OndeviceError
from ondevice.runtime.decode.calls import CallForm, call_grammar, form_of, teaching
from ondevice.runtime.decode.constraint import Constraint
from ondevice.runtime.decode.grammar import Grammars
from ondevice.runtime.decode.spelling import Piece
from ondevice.runtime.server.answers import Answer, ChatAnswer, TextAnswer
from ondevice.runtime.server.metrics import Metrics
from ondevice.runtime.server.requests import Asked, Held, Refused, read, read_embeddings
from ondevice.runtime.server.served import Embedder, Limits, Served, Writer
from ondevice.runtime.server.worker import Update, Worker

Endpoint = Callable[[Request], Awaitable[Response]]
Updates = AsyncGenerator[tuple[int, Update]]


class Api:
    """The endpoints of one model. key: what clients must send as a bearer token; None for no key."""

    def __init__(self, served: Served, *, key: str | None = None, limits: Limits | None = None) -> None:
        self.served, self.limits, self._key = served, limits or Limits(), key
        self._writer = served.model if isinstance(served.model, Writer) else None
        self._embedder = served.model if isinstance(served.model, Embedder) else None
        self.worker: Worker | None = None
        if self._writer:
            self.worker = Worker(
                self._writer.engine, self._writer.tokenizer, self._writer.ends, slots=self.limits.slots,
                queue=self.limits.queue,
            )  # fmt: skip
        self._embedding, self._embeddings_waiting = asyncio.Lock(), 0
        self.metrics = Metrics(self.worker)

    def app(self) -> Starlette:
        """For any ASGI server."""

        @asynccontextmanager
        async def life(_: Starlette) -> AsyncIterator[None]:
            yield
            if self.worker:
                await asyncio.to_thread(self.worker.close)

        page = Path(str(resources.files("ondevice.runtime.server"))) / "page"
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded("chat", self._chat), methods=["POST"]),
                Route("/v1/completions", self._guarded("completions", self._completions), methods=["POST"]),
                Route("/v1/embeddings", self._guarded("embeddings", self._embed), methods=["POST"]),
                Route("/v1/models", self._guarded("models", self._models)),
                Route("/v1/models/{name:path}", self._guarded("models", self._model)),
                Route("/health", self._health),
                Route("/metrics", self._guarded("metrics", self._metrics)),
                Route("/status", self._guarded("status", self._status)),
                *(
                    Route(f"/{path}", _file(page / (path or "index.html")))
                    for path in ("", "page.css", "page.mjs")
                ),
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
                response = _error(problem.status, str(problem), problem.code, problem.field)
            except Busy as problem:
                response = _error(503, str(problem), "overloaded", kind="server_error")
                response.headers["retry-after"] = "1"
            except BadInput as problem:
                response = _error(400, str(problem), "invalid_request")
            except OndeviceError as problem:
                response = _error(500, str(problem), "server_error", kind="server_error")
            except ClientDisconnect:
                response = Response(status_code=499)
            self.metrics.requests.labels(name, str(response.status_code)).inc()
            return response

        return guarded

    async def _chat(self, request: Request) -> Response:
        asked = read(await self._body(request), chat=True)
        writer = self._writing(asked.model)
        if writer.template is None:
            raise Refused("this model has no chat template; use /v1/completions", "messages")
        assert isinstance(asked.prompt, list)
        messages, tools = asked.prompt, asked.tools
        form = form_of(writer.template.source) if tools and asked.tool_choice != "none" else None
        if form and not writer.template.shows_tools:
            messages = _told(messages, teaching(tools))
        shown = [tool.to_json() for tool in tools] if writer.template.shows_tools else None
        text = writer.template.render(messages, tools=shown)
        ids = writer.tokenizer.encode(text, add_special_tokens=False).ids
        answer = ChatAnswer(asked, self.served.name, len(ids), form)
        return await self._answer(request, writer, asked, ids, answer, form)

    async def _completions(self, request: Request) -> Response:
        asked = read(await self._body(request), chat=False)
        writer = self._writing(asked.model)
        ids = writer.tokenizer.encode(asked.prompt).ids
        answer = TextAnswer(asked, self.served.name, len(ids))
        return await self._answer(request, writer, asked, ids, answer, None)

    async def _embed(self, request: Request) -> Response:
        asked = read_embeddings(await self._body(request))
        self._know(asked.model)
        if self._embedder is None:
            raise Refused(f"{self.served.name} writes text; serve an embedding model for embeddings", "model")
        if len(asked.texts) > self.limits.texts:
            raise Refused(f"input has {len(asked.texts)} texts; the limit is {self.limits.texts}", "input")
        if self._embeddings_waiting >= self.limits.queue:
            raise Busy(f"{self._embeddings_waiting} requests are waiting already; try again later")
        self._embeddings_waiting += 1
        try:
            async with self._embedding:  # one at a time: each uses every thread
                rows = await asyncio.to_thread(self._embedder.embed, asked.texts)
                count = self._embedder.count(asked.texts)
        finally:
            self._embeddings_waiting -= 1
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()
                if asked.coded
                else row.tolist(),
            }
            for index, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return JSONResponse({"object": "list", "data": data, "model": self.served.name, "usage": usage})

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, request: Request) -> Response:
        self._know(request.path_params["name"])
        return JSONResponse(self._card())

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _: Request) -> Response:
        return Response(self.metrics.exposition(), media_type="text/plain; version=0.0.4")

    async def _status(self, _: Request) -> Response:
        """For the page."""
        context = self._writer.engine.decoder.context if self._writer else None
        chats = self._writer is not None and self._writer.template is not None
        return JSONResponse(
            {"model": self.served.name, "context": context, "chats": chats} | self.metrics.now()
        )

    @cached_property
    def _grammars(self) -> Grammars:
        assert self._writer is not None
        return self._writer.grammars()

    def _constraint(self, writer: Writer, asked: Asked, form: CallForm | None) -> Constraint | None:
        """What the answer is held to. Raises Refused for a schema that is none."""
        try:
            if form:
                marker = writer.tokenizer.token_to_id(form.marker) if form.marker else None
                grammar = call_grammar(
                    form, asked.tools, asked.tool_choice, several=asked.several_calls, marker=marker
                )
                return self._grammars.lark(grammar)
            if asked.held:
                return _held(self._grammars, asked.held)
        except BadInput as problem:
            raise Refused(str(problem), asked.held.field if asked.held else "tools") from problem
        return None

    async def _answer(
        self,
        request: Request,
        writer: Writer,
        asked: Asked,
        ids: list[int],
        answer: Answer,
        form: CallForm | None,
    ) -> Response:
        constraint = await asyncio.to_thread(self._constraint, writer, asked, form)
        room = writer.engine.decoder.context - len(ids)
        limit = min(asked.limit or self.limits.tokens, self.limits.tokens, max(room, 1))
        updates = self._updates(self._submit(asked, ids, limit, constraint))
        await anext(updates)  # it has begun now, so that its end cancels the texts, however it comes
        if asked.stream:
            headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
            return StreamingResponse(
                _events(updates, answer), media_type="text/event-stream", headers=headers
            )
        gone = asyncio.create_task(_disconnected(request))
        try:
            return await _whole(updates, answer, gone)
        finally:
            gone.cancel()
            await updates.aclose()

    def _submit(
        self, asked: Asked, ids: list[int], limit: int, constraint: Constraint | None
    ) -> tuple[list[int], asyncio.Queue[tuple[int, Update]]]:
        """The numbers of the texts of all choices, and where they are heard of. Each draws with a seed of its own."""
        assert self.worker is not None
        loop, updates = asyncio.get_running_loop(), asyncio.Queue[tuple[int, Update]]()
        numbers: list[int] = []

        def hears(index: int) -> Callable[[Update], None]:
            def deliver(update: Update) -> None:
                loop.call_soon_threadsafe(updates.put_nowait, (index, update))

            return deliver

        try:
            for index in range(asked.choices):
                sampling = asked.sampling.with_seed(asked.sampling.seed + index)
                own = constraint.copy() if constraint else None
                numbers.append(self.worker.submit(ids, sampling, limit, asked.stop, hears(index), own))
        except OndeviceError:
            for number in numbers:
                self.worker.cancel(number)
            raise
        return numbers, updates

    async def _updates(self, begun: tuple[list[int], asyncio.Queue[tuple[int, Update]]]) -> Updates:
        """What the worker says of the texts of one request, by choice; whoever stops listening ends them. The first
        is empty, of choice -1."""
        assert self.worker is not None
        numbers, queue = begun
        start, first, left = time.monotonic(), True, len(numbers)
        try:
            yield -1, Update([])
            while left:
                rest = start + self.limits.seconds - time.monotonic()
                index, update = await asyncio.wait_for(queue.get(), max(rest, 0))
                if first and update.pieces:
                    self.metrics.first.observe(time.monotonic() - start)
                    first = False
                left -= update.finish is not None
                yield index, update
            self.metrics.whole.observe(time.monotonic() - start)
        except TimeoutError:
            problem = f"the answer took longer than the limit of {self.limits.seconds:g} s"
            yield 0, Update([], "error", problem)
        finally:
            for number in numbers:
                self.worker.cancel(number)

    async def _body(self, request: Request) -> Any:
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.body:
                        raise Refused(
                            f"the body is larger than the limit of {self.limits.body} bytes",
                            status=413,
                            code="too_large",
                        )
        except TimeoutError as problem:
            raise Refused(
                f"the body did not arrive within {self.limits.body_seconds:g} s", status=408, code="timeout"
            ) from problem
        try:
            return json.loads(bytes(body))
        except (ValueError, RecursionError) as problem:
            raise Refused(f"the body is not JSON: {problem}") from problem

    def _writing(self, name: str) -> Writer:
        self._know(name)
        if self._writer is None:
            raise Refused(f"{name} is an embedding model; use /v1/embeddings", "model")
        return self._writer

    def _know(self, name: str) -> None:
        if name != self.served.name:
            raise Refused(
                f"the model {name!r} is not served; there is: {self.served.name}",
                "model",
                status=404,
                code="model_not_found",
            )

    def _card(self) -> dict[str, Any]:
        return {"id": self.served.name, "object": "model", "created": 0, "owned_by": "ondevice"}


async def _events(updates: Updates, answer: Answer) -> AsyncIterator[str]:
    async with aclosing(updates):
        for document in answer.begin():
            yield _event(document)
        async for index, update in updates:
            if update.finish == "error":
                yield _event({"error": {"message": update.error, "type": "server_error"}})
                return
            answer.tokens += len(update.pieces)
            for document in answer.chunks(index, update.pieces, update.finish):
                yield _event(document)
        for document in answer.end():
            yield _event(document)
        yield "data: [DONE]\n\n"


async def _whole(updates: Updates, answer: Answer, gone: asyncio.Task[None]) -> Response:
    pieces: list[list[Piece]] = [[] for _ in range(answer.asked.choices)]
    finishes = [""] * answer.asked.choices
    while not all(finishes):
        following = asyncio.ensure_future(anext(updates))
        await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not following.done():
            following.cancel()
            raise ClientDisconnect
        index, update = following.result()
        if update.finish == "error":
            return _error(500, update.error, "server_error", kind="server_error")
        pieces[index] += update.pieces
        finishes[index] = update.finish or ""
    return JSONResponse(answer.whole(list(zip(pieces, finishes, strict=True))))


async def _disconnected(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)


def _held(grammars: Grammars, held: Held) -> Constraint:
    if held.kind == "schema":
        return grammars.json_schema(held.value)
    if held.kind == "object":
        return grammars.json_object()
    return grammars.regex(held.value) if held.kind == "regex" else grammars.choice(held.value)


def _told(messages: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Messages whose system message says this too."""
    if messages[0]["role"] == "system":
        return [messages[0] | {"content": f"{messages[0]['content']}\n\n{what}"}, *messages[1:]]
    return [{"role": "system", "content": what}, *messages]


def _file(path: Path) -> Endpoint:
    # Nothing but what this server sends may run in the page or be asked for by it.
    headers = {"content-security-policy": "default-src 'self'; img-src data:", "cache-control": "no-cache"}
    kind = "text/javascript" if path.suffix == ".mjs" else None

    async def send(_: Request) -> Response:
        return FileResponse(path, headers=headers, media_type=kind)

    return send


async def _no_such_path(request: Request, _: Exception) -> Response:
    return _error(404, f"there is no {request.method} {request.url.path}", "not_found")


def _error(
    status: int, message: str, code: str, field: str | None = None, *, kind: str = "invalid_request_error"
) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": kind, "param": field, "code": code}}, status)


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
