"""Chat templates: messages become the text that a model was trained to answer.

Knows Jinja, in a sandbox: a template comes with a checkpoint and is not trusted. Knows nothing of models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ondevice.errors import BadInput, MissingExtra
from ondevice.models.checkpoint import chat_template

Message = Mapping[str, Any]


class ChatTemplate:
    """A template and the special tokens that it may name (bos_token, eos_token, …).

    source: of the template. Raises BadInput where it is not valid Jinja, MissingExtra without jinja2.
    """

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None) -> None:
        try:
            from jinja2 import TemplateSyntaxError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingExtra("jinja2", "chat", "for the chat template of this model") from error
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except TemplateSyntaxError as problem:
            raise BadInput(f"the chat template is not valid: {problem}") from problem
        self.source, self._tokens = source, dict(tokens or {})

    @property
    def shows_tools(self) -> bool:
        """Whether it tells the model of tools."""
        return "tools" in self.source

    @classmethod
    def of(cls, folder: Path) -> ChatTemplate | None:
        """The template of a Hugging Face folder: chat_template.jinja, or in tokenizer_config.json; None without."""
        source, tokens = chat_template(folder)
        return cls(source, tokens) if source else None

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        answer: bool = True,
    ) -> str:
        """The text of messages [{"role", "content"}, …]. tools: their JSON schemas. answer: ends where the model's
        answer begins. Raises BadInput where the template refuses them."""
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise BadInput(f"message {number} is not an object with a role and a content")
        try:
            return str(
                self._template.render(
                    messages=list(messages), tools=list(tools) if tools else None, add_generation_prompt=answer,
                    **self._tokens,
                )
            )  # fmt: skip
        except BadInput:
            raise
        except Exception as problem:  # a template can fail in any way
            raise BadInput(f"the chat template cannot render these messages: {problem}") from problem


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise BadInput(f"the chat template refuses these messages: {message}")
