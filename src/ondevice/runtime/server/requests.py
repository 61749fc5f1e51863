"""What a client asks for: the fields of OpenAI's API, checked one by one.

Knows JSON. Knows nothing of HTTP or engines. What is not supported is refused by name, not passed over.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.errors import BadInput
from ondevice.runtime.decode.sampling import Sampling

# Fields that change nothing here, or whose neutral value is the only one that is supported.
_IGNORED = {"user", "metadata", "store", "service_tier", "stream_options", "parallel_tool_calls", "prompt_cache_key",
            "safety_identifier", "verbosity"}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "tools": ([],), "functions": ([],), "tool_choice": ("none", "auto"), "response_format": ({"type": "text"},),
    "suffix": ("",), "echo": (False,), "modalities": (["text"],), "top_logprobs": (0,), "reasoning_effort": (),
}  # fmt: skip
_KNOWN = {"model", "messages", "prompt", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p",
          "top_k", "min_p", "repetition_penalty", "seed", "stop", "logprobs"}  # fmt: skip


class Refused(BadInput):
    """A request that cannot be served. field: what in it is in the way."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class Asked:
    """A request for text. prompt: a text, or messages. usage: whether a stream ends with the count of tokens."""

    prompt: str | list[dict[str, Any]]
    model: str
    stream: bool
    usage: bool
    limit: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    logprobs: bool


def read(body: Any, *, chat: bool, most_stops: int = 16) -> Asked:
    """The request in a JSON body. chat: of /chat/completions, else of /completions. Raises Refused."""
    if not isinstance(body, Mapping):
        raise Refused("the body must be a JSON object")
    for name, value in body.items():
        if name in _KNOWN or name in _IGNORED or value is None:
            continue
        if name not in _NEUTRAL:
            raise Refused(f"{name!r} is not a field of this endpoint", str(name))
        if value not in _NEUTRAL[name]:
            raise Refused(f"{name} is not supported yet", name)
    stop = body.get("stop") or []
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else None
    if stops is None or len(stops) > most_stops or not all(isinstance(each, str) and each for each in stops):
        raise Refused(f"stop must be a string or up to {most_stops} of them, not empty", "stop")
    limit = _number(
        body, "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens", None, 1, 1 << 31
    )
    seed = _number(body, "seed", None, 0, (1 << 63) - 1)
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise Refused("stream_options must be an object", "stream_options")
    return Asked(
        prompt=_messages(body) if chat else _prompt(body),
        model=_text(body, "model"),
        stream=_flag(body, "stream"),
        usage=bool(options.get("include_usage")),
        limit=None if limit is None else int(limit),
        sampling=Sampling(
            temperature=float(_number(body, "temperature", 1.0, 0, 2) or 0.0),
            top_p=float(_number(body, "top_p", 1.0, 1e-6, 1) or 1.0),
            top_k=int(_number(body, "top_k", 0, 0, 1 << 31) or 0),
            min_p=float(_number(body, "min_p", 0.0, 0, 1) or 0.0),
            repetition=float(_number(body, "repetition_penalty", 1.0, 0.01, 100) or 1.0),
            seed=int(secrets.randbits(32) if seed is None else seed),
        ),
        stop=stops,
        logprobs=_logprobs(body, chat),
    )


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list with a message or more", "messages")
    read = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise Refused(f"{where} must be an object with a role and a content", where)
        content = message.get("content")
        if isinstance(content, list):
            parts = [
                part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
                for part in content
            ]
            if not all(isinstance(part, str) for part in parts):
                raise Refused(
                    f"{where}.content has a part that is not text; this model reads text only", where
                )
            content = "".join(str(part) for part in parts)
        if not isinstance(content, str):
            raise Refused(f"{where}.content must be a string or a list of text parts", where)
        read.append({"role": message["role"], "content": content})
    return read


def _prompt(body: Mapping[str, Any]) -> str:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise Refused(
            "prompt must be a string that is not empty; send several prompts as several requests", "prompt"
        )
    return prompt


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(f"{name} must be a string that is not empty", name)
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise Refused(f"{name} must be true or false", name)
    return bool(value)


def _logprobs(body: Mapping[str, Any], chat: bool) -> bool:
    value = body.get("logprobs")
    if chat:
        return _flag(body, "logprobs")
    if value not in (None, False, True, 0, 1):
        raise Refused("logprobs may be 0 or 1: those of the chosen tokens are given, no others", "logprobs")
    return value not in (None, False)


def _number(
    body: Mapping[str, Any], name: str, default: float | None, low: float, high: float
) -> float | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused(f"{name} must be a number, not {value!r}", name)
    if not low <= value <= high or (
        isinstance(low, int) and isinstance(default, int | None) and value != int(value)
    ):
        raise Refused(f"{name} must lie between {low:g} and {high:g}, not {value}", name)
    return value
