"""Chat templates against transformers, which runs the same text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ondevice.errors import BadInput
from ondevice.runtime.chat import ChatTemplate

CHATML = """{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
STRICT = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% if message.role == 'user' %}
[INST] {{ message.content | trim }} [/INST]
{% else %}
 {{ message.content }}{{ eos_token }}
{% endif %}
{% endfor %}"""
TOOLS = """{% if tools %}Tools:
{% for tool in tools %}
{{ tool | tojson(indent=2) }}
{% endfor %}
{% endif %}
{% for message in messages %}{% if message.role == 'system' %}{% continue %}{% endif %}
{{ message.role | upper }}: {{ message.content }}
{% endfor %}"""
MESSAGES = [
    {"role": "user", "content": "  What is naïve? "},
    {"role": "assistant", "content": "{{ 7 * 7 }}"},
    {"role": "user", "content": "…"},
]
TOOL = {"type": "function", "function": {"name": "über", "parameters": {"type": "object", "properties": {}}}}


def theirs(template: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [CHATML, STRICT, TOOLS])
@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_the_text_is_that_of_transformers(template: str, answer: bool, tools: Any) -> None:
    want = theirs(template).apply_chat_template(
        MESSAGES, tools=tools, add_generation_prompt=answer, tokenize=False
    )
    mine = ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"})
    assert mine.render(MESSAGES, tools=tools, answer=answer) == want


def test_a_folder_says_what_its_template_is(tmp_path: Path) -> None:
    assert ChatTemplate.of(tmp_path) is None
    theirs(STRICT).save_pretrained(tmp_path)
    want = theirs(STRICT).apply_chat_template(MESSAGES, tokenize=False)
    found = ChatTemplate.of(tmp_path)
    assert found is not None
    assert found.render(MESSAGES) == want
    for file in tmp_path.iterdir():
        file.unlink()
    older = {
        "chat_template": [{"name": "default", "template": STRICT}],
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(older))
    found = ChatTemplate.of(tmp_path)
    assert found is not None
    assert found.render(MESSAGES) == want


def test_a_template_is_not_trusted() -> None:
    escape = ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BadInput, match="cannot render"):
        escape.render(MESSAGES)
    change = ChatTemplate("{{ messages.append(1) }}")
    with pytest.raises(BadInput, match="cannot render"):
        change.render(MESSAGES)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="not valid"):
        ChatTemplate("{% for %}")
    with pytest.raises(BadInput, match="roles must alternate"):
        ChatTemplate(STRICT).render(MESSAGES[1:])
    with pytest.raises(BadInput, match="message 1 is not"):
        ChatTemplate(CHATML).render([MESSAGES[0], {"content": "x"}])
