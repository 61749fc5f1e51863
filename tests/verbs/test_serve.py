"""The server as its clients see it: the official OpenAI client, and hand-made requests, over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
import transformers
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ondevice.errors import BadInput
from ondevice.models import zoo
from ondevice.runtime.server.app import Api
from ondevice.runtime.server.patience import patient
from ondevice.runtime.server.served import Limits
from ondevice.verbs.export import export
from ondevice.verbs.open import open_language
from ondevice.verbs.serve import application, serve

KEY = "open-sesame"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=260, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["some text"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    fast.save_pretrained(where)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=260, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    module.save_pretrained(where)
    return where


class Running:
    """A server in a thread of its own."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.server = uvicorn.Server(
            uvicorn.Config(
                api.app(), port=0, log_level="error", host="127.0.0.1", http=patient(api.limits.head_seconds)
            )
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    run = Running(
        application(
            folder, key=KEY, threads=1, limits=Limits(body=20_000, body_seconds=0.5, head_seconds=0.5)
        )
    )
    yield run
    run.stop()


@pytest.fixture
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)


def post(running: Running, path: str, **settings: Any) -> httpx.Response:
    headers = {"authorization": b"Bearer " + KEY.encode()}
    return httpx.post(f"{running.url}{path}", headers=headers, timeout=30, **settings)


def text(folder: Path, prompt: str, limit: int, **settings: Any) -> str:
    with open_language(folder, threads=1) as session:
        return "".join(piece.text for piece in session.generate(prompt, limit=limit, **settings))


def metrics(running: Running) -> dict[str, float]:
    headers = {"authorization": b"Bearer " + KEY.encode()}
    families = text_string_to_metric_families(httpx.get(f"{running.url}/metrics", headers=headers).text)
    return {
        family.name.removeprefix("ondevice_"): family.samples[0].value
        for family in families
        if family.samples
    }


def idle(running: Running) -> bool:
    """Whether, within two seconds, nothing runs, and no page of the cache is held but by what is kept for later."""
    for _ in range(100):
        now = metrics(running)
        if not now["running"] + now["waiting"] and now["cache_bytes"] == now["cache_bytes_kept"]:
            return True
        time.sleep(0.02)
    return False


def test_a_chat_by_the_official_client(client: openai.OpenAI, folder: Path) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        max_tokens=12,
        temperature=0,
        logprobs=True,
    )
    want = text(folder, "user: hello\nassistant:", 12)
    assert answer.choices[0].message.content == want
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert all(each.logprob <= 0 for each in answer.choices[0].logprobs.content)
    assert "".join(each.token for each in answer.choices[0].logprobs.content) == want


def test_a_streamed_chat_is_the_same_text(client: openai.OpenAI, folder: Path) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}], max_tokens=12,
        temperature=0, stream=True, stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text(
        folder, "user: hello\nassistant:", 12
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_stop_and_seeds(client: openai.OpenAI, folder: Path) -> None:
    whole = text(folder, "abc", 30)
    stop = whole[len(whole) // 2]
    cut = client.completions.create(model="tiny", prompt="abc", max_tokens=30, temperature=0, stop=stop)
    assert cut.choices[0].text == whole[: whole.find(stop)]
    assert cut.choices[0].finish_reason == "stop"
    drawn = [
        client.completions.create(model="tiny", prompt="abc", max_tokens=20, temperature=1.5, seed=seed)
        .choices[0]
        .text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_models_health_and_metrics(client: openai.OpenAI, running: Running) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    assert httpx.get(f"{running.url}/health").json()["status"] == "ok"
    client.completions.create(model="tiny", prompt="abc", max_tokens=3)
    now = metrics(running)
    assert now["tokens_written_total"] >= 3
    assert now["cache_bytes_limit"] > 0
    assert now["resident_bytes"] > 1e6
    assert "first_token_seconds" in now


def test_many_streams_are_each_their_own(running: Running, client: openai.OpenAI, folder: Path) -> None:
    prompts = [f"text {number} " * (1 + number % 4) for number in range(12)]
    got: dict[int, str] = {}

    def ask(number: int) -> None:
        stream = client.completions.create(
            model="tiny", prompt=prompts[number], max_tokens=24, temperature=0, stream=True
        )
        got[number] = "".join(chunk.choices[0].text for chunk in stream)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == {number: text(folder, prompt, 24) for number, prompt in enumerate(prompts)}
    assert idle(running)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_text(running: Running, stream: bool) -> None:
    body = json.dumps(
        {"model": "tiny", "prompt": "abc", "max_tokens": 500, "temperature": 0, "stream": stream}
    ).encode()
    before = metrics(running)["tokens_written_total"]
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nauthorization: Bearer "
        connection.sendall(head.encode() + KEY.encode() + b"\r\n\r\n" + body)
        while metrics(running)["tokens_written_total"] < before + 3:
            time.sleep(0.005)
    assert idle(running)
    assert metrics(running)["tokens_written_total"] < before + 500


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{nope", "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[1]", "JSON object"),
        (b'{"model": "tiny"}', "prompt must be"),
        (b'{"model": "other", "prompt": "x"}', "'other' is not served"),
        (b'{"model": "tiny", "prompt": ["a", "b"]}', "several requests"),
        (b'{"model": "tiny", "prompt": "x", "temperature": NaN}', "temperature"),
        (b'{"model": "tiny", "prompt": "x", "temperature": "hot"}', "temperature must be a number"),
        (b'{"model": "tiny", "prompt": "x", "max_tokens": 0}', "max_tokens"),
        (b'{"model": "tiny", "prompt": "x", "max_tokens": 1.5}', "max_tokens"),
        (b'{"model": "tiny", "prompt": "x", "stop": [""]}', "stop"),
        (b'{"model": "tiny", "prompt": "x", "n": 200}', "n must lie"),
        (b'{"model": "tiny", "prompt": "x", "logit_bias": {"1": 2}}', "logit_bias is not supported"),
        (b'{"model": "tiny", "prompt": "x", "guided_regex": "("}', "pattern cannot be used"),
        (b'{"model": "tiny", "prompt": "x", "response_format": {"type": "yaml"}}', "must be of type"),
        (b'{"model": "tiny", "prompt": "x", "surprise": 2}', "'surprise' is not a field"),
        (b'{"model": "tiny", "prompt": "' + b"x" * 9000 + b'"}', "context of 512"),
        (b'{"model": "tiny", "prompt": "' + b"x" * 30000 + b'"}', "larger than the limit"),
    ],
)
def test_bad_requests_are_refused(running: Running, body: bytes, message: str) -> None:
    response = post(running, "/v1/completions", content=body)
    assert response.status_code == {"'other' is not served": 404, "larger than the limit": 413}.get(
        message, 400
    )
    assert message in response.json()["error"]["message"]
    assert idle(running)


def test_bad_messages_and_tools_are_refused(client: openai.OpenAI) -> None:
    image: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(openai.BadRequestError, match="text only"):
        client.chat.completions.create(model="tiny", messages=image)


def test_a_wrong_key_and_a_wrong_path(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="wrong key"):
        client.models.list()
    assert post(running, "/v1/images").json()["error"]["code"] == "not_found"


def test_a_slow_client_is_let_go(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nauthorization: Bearer "
            + KEY.encode()
        )
        connection.sendall(head + b"\r\n\r\n{")
        connection.settimeout(10)
        assert b"did not arrive within" in connection.recv(4096) + connection.recv(4096)


def drip(port: int, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for letter in head:
            connection.sendall(bytes([letter]))
            time.sleep(0.02)


def test_a_head_that_comes_drop_by_drop_is_cut_off(running: Running) -> None:
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # the server hangs up
        drip(running.port, b"POST /v1/completions HTTP/1.1\r\nhost: " + b"x" * 1000)
    with httpx.Client(headers={"authorization": f"Bearer {KEY}"}) as client:  # one that asks again is not
        for _ in range(2):
            assert client.get(f"{running.url}/v1/models").status_code == 200
            time.sleep(0.7)


def test_told_to_stop_it_finishes_what_runs_and_takes_no_more(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ondevice", "serve", str(folder), "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        for _ in range(300):
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.1)
        stream = client.completions.create(
            model="tiny", prompt="abc", max_tokens=400, temperature=0, stream=True
        )
        chunks = iter(stream)
        got = next(chunks).choices[0].text
        process.terminate()
        refused = False
        for chunk in chunks:
            got += chunk.choices[0].text
            if not refused:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                except OSError:
                    refused = True
        assert got == text(folder, "abc", 400)
        assert refused
        process.wait(30)
    finally:
        process.kill()
        process.communicate()


def test_a_cache_of_eight_bits_writes_what_one_text_alone_does(folder: Path) -> None:
    run = Running(application(folder, threads=1, cache="int8"))
    try:
        client = openai.OpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0)

        def ask(prompt: str) -> str:
            answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=20, temperature=0)
            return answer.choices[0].text

        prompts = ["abc", "some text " * 9, "x"]
        with ThreadPoolExecutor(3) as pool:
            got = list(pool.map(ask, prompts))
        with open_language(folder, threads=1, cache="int8") as session:
            for prompt, answer in zip(prompts, got, strict=True):
                assert answer == "".join(piece.text for piece in session.generate(prompt, limit=20))
    finally:
        run.stop()


def test_speculation_changes_no_client_s_text(folder: Path) -> None:
    run = Running(application(folder, threads=1, speculate="lookup"))
    try:
        client = openai.OpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0)

        def ask(prompt: str) -> str:
            answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=40, temperature=0)
            return answer.choices[0].text

        prompts = ["abc abc abc", "some text " * 9, "x", "to be or not to be or not"]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(ask, prompts))
        with open_language(folder, threads=1) as session:
            for prompt, answer in zip(prompts, got, strict=True):
                assert answer == "".join(piece.text for piece in session.generate(prompt, limit=40))
    finally:
        run.stop()


def test_a_gguf_file_by_the_official_client(tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs gguf: pip install 'ondevice-ml[gguf]'")
    file = export("reference-lm", "gguf", out=tmp_path / "out").folder / "model.gguf"
    file = file.rename(tmp_path / "small-lm.F16.gguf")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ondevice", "serve", file.name, "--port", str(port), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path)
    try:
        assert process.stderr is not None
        assert b"model: small-lm.F16 " in process.stderr.readline()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=9)
        [model] = client.models.list()
        answer = client.completions.create(model=model.id, prompt="import os", max_tokens=12, temperature=0)
        stream = client.completions.create(
            model="small-lm.F16", prompt="import os", max_tokens=12, temperature=0, stream=True
        )
        want = text(zoo.locate("reference-lm"), "import os", 12)
        assert answer.choices[0].text == "".join(chunk.choices[0].text for chunk in stream) == want
        with pytest.raises(openai.NotFoundError, match=r"there is: small-lm\.F16"):
            client.completions.create(model="small-lm", prompt="import os")
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "hello"}])
    finally:
        process.kill()
        process.communicate()


def test_a_full_queue_says_so(folder: Path) -> None:
    run = Running(application(folder, threads=1, limits=Limits(slots=1, queue=0, tokens=400)))
    try:
        client = openai.OpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0)
        first = client.completions.create(
            model="tiny", prompt="abc", max_tokens=400, temperature=0, stream=True
        )
        next(iter(first))
        with pytest.raises(openai.InternalServerError, match="waiting already"):
            client.completions.create(model="tiny", prompt="abc", max_tokens=4)
        first.close()
        assert idle(run)
    finally:
        run.stop()


def test_an_answer_has_a_time_limit(folder: Path) -> None:
    run = Running(application(folder, threads=1, limits=Limits(seconds=0.01, tokens=400)))
    try:
        client = openai.OpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.InternalServerError, match="longer than the limit"):
            client.completions.create(model="tiny", prompt="abc", max_tokens=400, temperature=0)
        assert idle(run)
    finally:
        run.stop()


def test_shutting_down_finishes_what_runs(folder: Path) -> None:
    run = Running(application(folder, threads=1))
    client = openai.OpenAI(base_url=f"{run.url}/v1", api_key="none", max_retries=0)
    stream = client.completions.create(model="tiny", prompt="abc", max_tokens=100, temperature=0, stream=True)
    chunks = iter(stream)
    begun = next(chunks).choices[0].text
    run.server.should_exit = True
    got = begun + "".join(chunk.choices[0].text for chunk in chunks)
    assert got == text(folder, "abc", 100)
    run.stop()


def test_other_machines_need_a_key(folder: Path) -> None:
    with pytest.raises(BadInput, match="set a key"):
        serve(folder, host="0.0.0.0")
    with pytest.raises(BadInput, match="port"):
        serve(folder, port=70000)
