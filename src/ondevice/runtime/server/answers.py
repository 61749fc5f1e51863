"""Answers as JSON of OpenAI's API: whole, or chunk by chunk.

Knows pieces of text and calls. Knows nothing of HTTP or engines.
"""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from typing import Any

from ondevice.runtime.decode.calls import Argued, Called, CallForm, CallReader, Event, Said
from ondevice.runtime.decode.spelling import Piece
from ondevice.runtime.server.requests import Asked

Document = dict[str, Any]


class Answer(ABC):
    """One answer, of as many choices as were asked for. prompt_tokens, tokens: counted."""

    kind, chunk_kind, prefix = "", "", ""

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        self.asked, self.model, self.prompt_tokens, self.tokens = asked, model, prompt_tokens, 0
        self.id, self.created = f"{self.prefix}-{secrets.token_hex(12)}", int(time.time())

    @abstractmethod
    def begin(self) -> list[Document]:
        """The chunks before the first token."""

    @abstractmethod
    def chunks(self, index: int, pieces: list[Piece], finish: str | None) -> list[Document]:
        """What one choice goes on with."""

    @abstractmethod
    def choice(self, index: int, pieces: list[Piece], finish: str) -> Document:
        """A whole choice."""

    def whole(self, choices: list[tuple[list[Piece], str]]) -> Document:
        """All choices at once."""
        self.tokens = sum(len(pieces) for pieces, _ in choices)
        listed = [self.choice(index, *choice) for index, choice in enumerate(choices)]
        return self._head(self.kind) | {"choices": listed, "usage": self._usage()}

    def end(self) -> list[Document]:
        """The chunk that only counts, where it was asked for."""
        counted = self._head(self.chunk_kind) | {"choices": [], "usage": self._usage()}
        return [counted] if self.asked.usage else []

    def _usage(self) -> dict[str, int]:
        total = self.prompt_tokens + self.tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens, "total_tokens": total}

    def _head(self, kind: str) -> Document:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, index: int, finish: str | None = None, **fields: Any) -> Document:
        choice = {"index": index, "finish_reason": finish} | fields
        return self._head(self.chunk_kind) | {"choices": [choice]}


class ChatAnswer(Answer):
    """Of /chat/completions. form: how calls are written; None where there are no tools."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, asked: Asked, model: str, prompt_tokens: int, form: CallForm | None) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._readers = [CallReader(form) for _ in range(asked.choices)] if form else None

    def begin(self) -> list[Document]:
        first = {"role": "assistant", "content": None if self._readers else ""}
        return [self._chunk(index, delta=first, logprobs=None) for index in range(self.asked.choices)]

    def chunks(self, index: int, pieces: list[Piece], finish: str | None) -> list[Document]:
        if not self._readers:
            delta = {"content": _text(pieces)} if pieces else {}
            return [self._chunk(index, finish, delta=delta, logprobs=self._logprobs(pieces))]
        events = self._events(index, pieces, finish)
        listed = [self._chunk(index, delta=_delta(event), logprobs=None) for event in events]
        if finish:
            listed.append(self._chunk(index, self._finish(index, finish), delta={}, logprobs=None))
        return listed

    def choice(self, index: int, pieces: list[Piece], finish: str) -> Document:
        message: Document = {"role": "assistant", "content": _text(pieces)}
        logprobs = self._logprobs(pieces)
        if self._readers:
            events = self._events(index, pieces, finish)
            message["content"] = "".join(event.text for event in events if isinstance(event, Said)) or None
            if calls := [_call(event) for event in events if isinstance(event, Called)]:
                message["tool_calls"] = calls
            for event in events:
                if isinstance(event, Argued):
                    calls[event.number]["function"]["arguments"] += event.text
        finish = self._finish(index, finish)
        return {"index": index, "finish_reason": finish, "message": message, "logprobs": logprobs}

    def _events(self, index: int, pieces: list[Piece], finish: str | None) -> list[Event]:
        assert self._readers is not None
        reader = self._readers[index]
        return reader.add(_text(pieces)) + (reader.rest() if finish else [])

    def _finish(self, index: int, finish: str) -> str:
        called = self._readers is not None and self._readers[index].calls > 0
        return "tool_calls" if called and finish == "stop" else finish

    def _logprobs(self, pieces: list[Piece]) -> Any:
        if not self.asked.logprobs:
            return None
        return {
            "content": [
                _likely(piece.text, piece.logprob)
                | {"top_logprobs": [_likely(*other) for other in piece.others]}
                for piece in pieces
            ]
        }


class TextAnswer(Answer):
    """Of /completions."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, asked: Asked, model: str, prompt_tokens: int) -> None:
        super().__init__(asked, model, prompt_tokens)
        self._offsets = [0] * asked.choices

    def begin(self) -> list[Document]:
        return []

    def chunks(self, index: int, pieces: list[Piece], finish: str | None) -> list[Document]:
        return [self._chunk(index, finish, text=_text(pieces), logprobs=self._logprobs(index, pieces))]

    def choice(self, index: int, pieces: list[Piece], finish: str) -> Document:
        logprobs = self._logprobs(index, pieces)
        return {"index": index, "finish_reason": finish, "text": _text(pieces), "logprobs": logprobs}

    def _logprobs(self, index: int, pieces: list[Piece]) -> Any:
        if not self.asked.logprobs:
            return None
        offsets = []
        for piece in pieces:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(piece.text)
        return {
            "tokens": [piece.text for piece in pieces],
            "token_logprobs": [piece.logprob for piece in pieces],
            "top_logprobs": [dict(piece.others) for piece in pieces] if self.asked.sampling.report else None,
            "text_offset": offsets,
        }


def _delta(event: Event) -> Document:
    if isinstance(event, Said):
        return {"content": event.text}
    if isinstance(event, Called):
        return {"tool_calls": [{"index": event.number} | _call(event)]}
    return {"tool_calls": [{"index": event.number, "function": {"arguments": event.text}}]}


def _call(event: Called) -> Document:
    function = {"name": event.name, "arguments": ""}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _likely(text: str, logprob: float) -> Document:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
