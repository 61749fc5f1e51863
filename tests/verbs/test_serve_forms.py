"""Answers that are held to a form, as two clients see them: OpenAI's own and LangChain's. A shipped decoder writes,
which knows nothing of JSON or functions: what is right here is right by construction."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from starlette.testclient import TestClient

from ondevice.models import zoo
from ondevice.verbs.serve import application

SHAPE = {
    "type": "object",
    "properties": {
        "place": {"enum": ["Bonn", 'Köln "Mitte"']},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["place", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "description": what, "parameters": SHAPE}}
    for name, what in (("weather", "The weather of the next days."), ("trains", "When trains leave."))
]
ASK: Any = [{"role": "user", "content": "hello"}]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
BARE = '{% if tools %}{{ tools | tojson }} {"name": …, "parameters": …}{% endif %}' + PLAIN
TAGS = (
    "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"
    + PLAIN
    + (
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments.place }}"
        "{% endfor %}{% endfor %}"
    )
)


@pytest.fixture(scope="module", params=["plain", "bare", "tags"])
def client(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("models") / "lm"
    folder.mkdir()
    for file in zoo.locate("reference-lm").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text({"plain": PLAIN, "bare": BARE, "tags": TAGS}[request.param])
    with TestClient(application(folder, threads=1).app(), base_url="http://here/v1") as http:
        yield openai.OpenAI(base_url="http://here/v1", api_key="none", max_retries=0, http_client=http)


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    settings = {"messages": ASK, "max_tokens": 200, "seed": 1} | settings
    return client.chat.completions.create(model="lm", **settings)


def test_a_schema_holds_the_answer(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SHAPE, "strict": True}}
    for seed in range(3):
        answer = ask(client, response_format=form, seed=seed, temperature=1.5)
        jsonschema.validate(json.loads(answer.choices[0].message.content), SHAPE)
        assert answer.choices[0].finish_reason == "stop"
    some = ask(client, response_format={"type": "json_object"}).choices[0]
    assert some.message.content.startswith("{")
    assert some.finish_reason == "length" or isinstance(json.loads(some.message.content), dict)
    assert ask(client, extra_body={"guided_choice": ["yes", "no"]}).choices[0].message.content in (
        "yes",
        "no",
    )
    text = (
        client.completions.create(model="lm", prompt="x", extra_body={"guided_regex": "[0-9]{3}"})
        .choices[0]
        .text
    )
    assert len(text) == 3
    assert text.isdigit()


class Trip(BaseModel):
    """A journey."""

    place: Literal["Bonn", "Ulm"]
    days: int = Field(ge=1, le=9)


class Day(BaseModel):
    """A day."""  # so short that it fits into the model's context where its template knows of no tools

    day: int = Field(ge=1, le=9)


def test_the_client_parses_what_it_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="lm", messages=ASK, response_format=Trip, seed=2)
    assert isinstance(answer.choices[0].message.parsed, Trip)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "trains"}}])
def test_calls_that_are_demanded(client: openai.OpenAI, choice: Any) -> None:
    whole = ask(client, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False).choices[0]
    stream = ask(client, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, stream=True)
    deltas = [chunk.choices[0].delta for chunk in stream]
    call = whole.message.tool_calls[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert call.function.name in (["weather", "trains"] if choice == "required" else ["trains"])
    jsonschema.validate(json.loads(call.function.arguments), SHAPE)
    parts = [part for delta in deltas for part in delta.tool_calls or []]
    assert (parts[0].function.name, parts[0].index) == (call.function.name, 0)
    assert parts[0].id
    assert len(parts) > 2
    assert "".join(part.function.arguments for part in parts) == call.function.arguments
    assert not any(delta.content for delta in deltas)


def test_a_model_that_may_call_and_does_not(client: openai.OpenAI) -> None:
    plain, offered = (ask(client, temperature=0, max_tokens=20, **more) for more in ({}, {"tools": TOOLS}))
    assert offered.choices[0].message.content
    assert offered.choices[0].message.tool_calls is None
    chunks = list(ask(client, temperature=0, max_tokens=20, tools=TOOLS, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == offered.choices[0].message.content
    assert offered.usage.prompt_tokens > plain.usage.prompt_tokens  # it was told of them


def test_calls_and_their_results_can_be_sent_back(client: openai.OpenAI) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Bonn"}'}}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "rain"},
    ]
    assert ask(client, messages=messages, max_tokens=5).usage.completion_tokens > 0
    call["function"] = {"name": "weather", "arguments": "{"}
    with pytest.raises(openai.BadRequestError, match=r"messages\.1\.tool_calls cannot be read"):
        ask(client, messages=messages)


def test_several_choices_and_likely_tokens(client: openai.OpenAI) -> None:
    answer = ask(client, n=3, temperature=1.2, max_tokens=8, logprobs=True, top_logprobs=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    for place in answer.choices[1].logprobs.content:
        likely = [other.logprob for other in place.top_logprobs]
        assert len(likely) == 4
        assert likely == sorted(likely, reverse=True)
        assert place.logprob <= likely[0] <= 0
    whole = [choice.message.content for choice in answer.choices]
    streamed = ["", "", ""]
    for chunk in ask(client, n=3, temperature=1.2, max_tokens=8, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == whole


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}},
         "objekt"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "with a schema"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "no name of letters"),
        ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": 3}}}]}, "cannot be used"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "nix"}}}, "'nix', which is not"),
        ({"tool_choice": "required"}, "there are no tools"),
        ({"tools": TOOLS, "response_format": {"type": "json_object"}}, "cannot both hold"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"n": 0}, "n must lie"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_refused(client: openai.OpenAI, settings: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message):
        ask(client, **settings)


def test_langchain_streams_calls_and_parses(client: openai.OpenAI) -> None:
    chat = ChatOpenAI(
        model="lm", base_url="http://here/v1", api_key="none", http_client=client._client, seed=3, max_tokens=200,
        temperature=0, max_retries=0,
    )  # fmt: skip
    whole = chat.invoke("hello").content
    assert "".join(str(chunk.content) for chunk in chat.stream("hello")) == whole
    call = (
        chat.bind_tools(TOOLS, tool_choice="weather", parallel_tool_calls=False).invoke("hello").tool_calls[0]
    )
    assert call["name"] == "weather"
    jsonschema.validate(call["args"], SHAPE)
    assert isinstance(chat.with_structured_output(Trip, method="json_schema").invoke("hello"), Trip)
    assert isinstance(chat.with_structured_output(Day, method="function_calling").invoke("hello"), Day)


def test_embeddings_by_the_official_client(tiny_checkpoint: Any) -> None:
    from sentence_transformers import SentenceTransformer

    folder: Path = tiny_checkpoint("bert", pooling="mean", name="embedder")
    texts = ["The quick brown fox", "Two tables, five chairs"]
    with TestClient(application(folder, threads=1).app(), base_url="http://here/v1") as http:
        client = openai.OpenAI(base_url="http://here/v1", api_key="none", max_retries=0, http_client=http)
        answer = client.embeddings.create(model=folder.name, input=texts)  # it asks for base64
        plain = client.embeddings.create(model=folder.name, input=texts[0], encoding_format="float")
        coded = http.post(
            "/embeddings", json={"model": folder.name, "input": texts[1], "encoding_format": "base64"}
        )
        with pytest.raises(openai.BadRequestError, match="another model's vocabulary"):
            client.embeddings.create(model=folder.name, input=[1, 2, 3])
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.embeddings.create(model=folder.name, input=[" "])
        with pytest.raises(openai.BadRequestError, match="an embedding model"):
            client.completions.create(model=folder.name, prompt="x")
    want = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose([row.embedding for row in answer.data], want, atol=2e-5)
    np.testing.assert_allclose(plain.data[0].embedding, want[0], atol=2e-5)
    sent = np.frombuffer(base64.b64decode(coded.json()["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(sent, want[1], atol=2e-5)
    assert answer.usage.prompt_tokens > 10


def test_a_decoder_gives_no_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="serve an embedding model"):
        client.embeddings.create(model="lm", input="x")
