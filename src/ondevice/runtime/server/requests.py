"""What a client asks for: the fields of OpenAI's API, checked one by one.

Knows JSON. Knows nothing of HTTP or engines. What is not supported is refused by name, not passed over.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ondevice.errors import BadInput
from ondevice.runtime.decode.calls import Tool
from ondevice.runtime.decode.sampling import Sampling

# Fields that change nothing here, or whose neutral value is the only one that is supported.
_IGNORED = {"user", "metadata", "store", "service_tier", "stream_options", "prompt_cache_key", "safety_identifier",
            "verbosity"}  # fmt: skip
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "functions": ([],),
    "suffix": ("",), "echo": (False,), "modalities": (["text"],), "reasoning_effort": (),
}  # fmt: skip
_KNOWN = {"model", "stream", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p", "n",
          "repetition_penalty", "seed", "stop", "logprobs", "response_format", "guided_regex",
          "guided_choice"}  # fmt: skip
_OF_CHAT = {"messages", "tools", "tool_choice", "parallel_tool_calls", "top_logprobs"}
_MOST_STOPS, _MOST_TOOLS, _MOST_CHOICES, _MOST_LOGPROBS = 16, 128, 16, 20


class Refused(BadInput):
    """A request that cannot be served. field: what in it is in the way. status, code: of the HTTP answer."""

    def __init__(
        self, message: str, field: str | None = None, *, status: int = 400, code: str = "invalid_request"
    ) -> None:
        super().__init__(message)
        self.field, self.status, self.code = field, status, code


@dataclass(frozen=True)
class Held:
    """What the text is held to. kind: "schema", "object", "regex" or "choice"; value: which; field: where it stood."""

    kind: str
    value: Any
    field: str


@dataclass(frozen=True)
class Asked:
    """A request for text. prompt: a text, or messages. usage: whether a stream ends with the count of tokens. choices:
    how many texts. logprobs: whether they are told. tool_choice: "none", "auto", "required" or a tool's name."""

    prompt: str | list[dict[str, Any]]
    model: str
    stream: bool
    usage: bool
    limit: int | None
    sampling: Sampling
    stop: tuple[str, ...]
    logprobs: bool
    choices: int = 1
    held: Held | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "none"
    several_calls: bool = True


@dataclass(frozen=True)
class AskedEmbeddings:
    """A request for embeddings. coded: whether as base64 of float32."""

    texts: list[str]
    model: str
    coded: bool


def read(body: Any, *, chat: bool) -> Asked:
    """The request in a JSON body. chat: of /chat/completions, else of /completions. Raises Refused."""
    body = _object(body, _KNOWN | _IGNORED | (_OF_CHAT if chat else {"prompt"}))
    stop = body.get("stop") or []
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else None
    if stops is None or len(stops) > _MOST_STOPS or not all(isinstance(each, str) and each for each in stops):
        raise Refused(f"stop must be a string or up to {_MOST_STOPS} of them, not empty", "stop")
    limit = _number(
        body, "max_completion_tokens" if body.get("max_completion_tokens") else "max_tokens", None, 1, 1 << 31
    )
    seed = _number(body, "seed", None, 0, (1 << 63) - 1)
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise Refused("stream_options must be an object", "stream_options")
    logprobs, report = _logprobs(body, chat)
    tools, choice = _tools(body)
    held = _held(body)
    if held and tools and choice != "none":
        raise Refused(f"{held.field} and tools cannot both hold the answer; leave one out", held.field)
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
            report=report,
        ),
        stop=stops,
        logprobs=logprobs,
        choices=int(_number(body, "n", 1, 1, _MOST_CHOICES) or 1),
        held=held,
        tools=tools,
        tool_choice=choice,
        several_calls=body.get("parallel_tool_calls") is None or _flag(body, "parallel_tool_calls"),
    )


def read_embeddings(body: Any) -> AskedEmbeddings:
    """The request in a JSON body of /embeddings. Raises Refused."""
    body = _object(body, {"input", "model", "encoding_format", "user"})
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(each, str) for each in texts):
        raise Refused(
            "input must be a text or a list of texts; tokens of another model's vocabulary are not read",
            "input",
        )
    form = body.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise Refused(f"encoding_format must be float or base64, not {form!r}", "encoding_format")
    return AskedEmbeddings(texts, _text(body, "model"), form == "base64")


def _object(body: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise Refused("the body must be a JSON object")
    for name, value in body.items():
        if name in known or value is None:
            continue
        if name not in _NEUTRAL:
            raise Refused(f"{name!r} is not a field of this endpoint", str(name))
        if value not in _NEUTRAL[name]:
            raise Refused(f"{name} is not supported; leave it out", name)
    return body


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refused("messages must be a list with a message or more", "messages")
    read: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise Refused(f"{where} must be an object with a role and a content", where)
        content, calls = message.get("content"), message.get("tool_calls")
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
        if not isinstance(content, str) and not (content is None and calls):
            raise Refused(f"{where}.content must be a string or a list of text parts", where)
        kept = {key: message[key] for key in ("name", "tool_call_id") if isinstance(message.get(key), str)}
        if calls:
            kept["tool_calls"] = _calls_before(calls, where)
        read.append({"role": message["role"], "content": content or ""} | kept)
    return read


def _calls_before(calls: Any, where: str) -> list[dict[str, Any]]:
    """Calls of earlier answers. Templates want their arguments as objects, the API sends them as text."""
    read = []
    try:
        for call in calls:
            function = call["function"]
            arguments = json.loads(function["arguments"] or "{}")
            named = {"name": str(function["name"]), "arguments": arguments}
            read.append({"id": str(call.get("id", "")), "type": "function", "function": named})
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as problem:
        raise Refused(f"{where}.tool_calls cannot be read: {problem!r}", where) from problem
    return read


def _tools(body: Mapping[str, Any]) -> tuple[tuple[Tool, ...], str]:
    """The functions that may be called, and how."""
    given = body.get("tools") or []
    if not isinstance(given, list) or len(given) > _MOST_TOOLS:
        raise Refused(f"tools must be a list of up to {_MOST_TOOLS}", "tools")
    tools = []
    for number, tool in enumerate(given):
        function = (
            tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else None
        )
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str):
            raise Refused(f"tools.{number} must be a function with a name", f"tools.{number}")
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
            raise Refused(
                f"tools.{number}: {name!r} is no name of letters, digits, _, - and .", f"tools.{number}"
            )
        schema = function.get("parameters")
        schema = {"type": "object", "properties": {}} if schema is None else schema
        if not isinstance(schema, Mapping):
            raise Refused(f"tools.{number}: parameters must be a JSON schema", f"tools.{number}")
        tools.append(Tool(name, str(function.get("description") or ""), schema))
    choice = body.get("tool_choice") or ("auto" if tools else "none")
    if isinstance(choice, Mapping):
        function = choice.get("function")
        choice = function.get("name") if isinstance(function, Mapping) else None
        if choice not in [tool.name for tool in tools]:
            raise Refused(f"tool_choice names {choice!r}, which is not among the tools", "tool_choice")
    elif choice not in ("none", "auto", "required"):
        raise Refused("tool_choice must be none, auto, required or a function", "tool_choice")
    elif choice == "required" and not tools:
        raise Refused("tool_choice is required, but there are no tools", "tool_choice")
    return tuple(tools), str(choice) if tools else "none"


def _held(body: Mapping[str, Any]) -> Held | None:
    form = body.get("response_format") or {"type": "text"}
    kind = form.get("type") if isinstance(form, Mapping) else None
    pattern, choice = body.get("guided_regex"), body.get("guided_choice")
    if kind == "json_object":
        return Held("object", None, "response_format")
    if kind == "json_schema":
        named = form.get("json_schema")
        if not isinstance(named, Mapping) or not isinstance(named.get("schema"), Mapping):
            raise Refused("response_format.json_schema must be an object with a schema", "response_format")
        return Held("schema", named["schema"], "response_format")
    if kind != "text":
        raise Refused("response_format must be of type text, json_object or json_schema", "response_format")
    if pattern is not None:
        return Held("regex", _text(body, "guided_regex"), "guided_regex")
    if choice is not None:
        if not isinstance(choice, list):
            raise Refused("guided_choice must be a list of texts", "guided_choice")
        return Held("choice", choice, "guided_choice")
    return None


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


def _logprobs(body: Mapping[str, Any], chat: bool) -> tuple[bool, int]:
    """Whether logarithms of probabilities are told, and of how many tokens in each place."""
    if chat:
        most = int(_number(body, "top_logprobs", 0, 0, _MOST_LOGPROBS) or 0)
        if most and not body.get("logprobs"):
            raise Refused("top_logprobs needs logprobs to be true", "top_logprobs")
        return _flag(body, "logprobs"), most
    if isinstance(body.get("logprobs"), bool):
        return _flag(body, "logprobs"), 0
    count = int(_number(body, "logprobs", -1, 0, _MOST_LOGPROBS) or 0)
    return count >= 0, max(0, count)


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
