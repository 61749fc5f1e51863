"""The page of `ondevice serve` in a real browser: a key, a message, the streamed answer, and the gauges."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn

from ondevice.models import zoo
from ondevice.verbs.serve import application

KEY = "open-sesame"


class Browser:
    """Headless Chromium, by its debugging protocol over a pair of pipes."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()

        def lay() -> None:  # the browser reads from 3 and writes to 4
            fds = [os.dup(theirs_in), os.dup(theirs_out)]
            os.dup2(fds[0], 3)
            os.dup2(fds[1], 4)

        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--window-size=900,700", f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command, preexec_fn=lay, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._number, self._session = 0, ""
        pages = [each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        while True:
            read = bytearray()
            while (byte := self._in.read(1)) != b"\0":
                assert byte, "the browser is gone"
                read += byte
            answer = json.loads(read)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 30) -> Any:
        """The value of an expression when it is true."""
        end = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < end, (
                f"{expression} stays {value!r}: {self.value('document.body.innerText')}"
            )
            time.sleep(0.02)
        return value

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)
        for kind, letter in (("keyDown", "\r"), ("keyUp", "")):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text=letter, windowsVirtualKeyCode=13
            )  # fmt: skip

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._out.close()
        self._in.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models") / "lm"
    folder.mkdir()
    for file in zoo.locate("reference-lm").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    api = application(folder, key=KEY, threads=1)
    server = uvicorn.Server(uvicorn.Config(api.app(), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def browser(require_tool: Callable[[str, str], str], tmp_path: Path) -> Iterator[Browser]:
    run = Browser(require_tool("chromium", "chromium"), tmp_path / "profile")
    yield run
    run.close()


def test_a_chat_in_the_browser(url: str, browser: Browser) -> None:
    browser.call("Page.navigate", url=url)
    browser.until("document.activeElement?.id === 'key'")  # it asks for the key
    browser.write("wrong")
    browser.until("document.getElementById('problem').textContent.includes('does not take')")
    browser.until("document.activeElement?.id === 'key'")
    browser.value("document.getElementById('key').value = ''")
    browser.write(KEY)
    browser.until("document.getElementById('model').textContent === 'lm'")
    browser.until("/[0-9] [MG]B/.test(document.getElementById('memory').textContent)")
    browser.value("document.getElementById('temperature').value = 0")
    browser.value("document.getElementById('limit').value = 300")
    browser.value("document.getElementById('text').focus()")
    browser.write("The file")
    grown = {browser.until("document.querySelector('.writing')?.textContent")}
    while browser.value("!!document.querySelector('.writing')"):
        grown.add(browser.value("document.querySelector('.assistant').textContent"))
    assert len(grown) > 3  # it came bit by bit
    browser.until("Number(document.getElementById('speed').textContent) > 0")
    browser.until("document.getElementById('cache').textContent.endsWith('%')")
    shown = browser.value("document.querySelector('.assistant').firstChild.textContent")
    figures = browser.value("document.querySelector('.figures').textContent")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    want = client.chat.completions.create(
        model="lm", messages=[{"role": "user", "content": "The file"}], temperature=0, max_tokens=300
    )
    assert shown == want.choices[0].message.content
    assert want.usage is not None
    assert figures.startswith(f"{want.usage.completion_tokens} tokens")
    unnamed = "[...document.querySelectorAll('input,textarea')].filter(e => !e.labels.length).length"
    assert browser.value(unnamed) == 0  # a screen reader has a name for each


def test_stop_and_new_chat(url: str, browser: Browser) -> None:
    browser.call("Page.navigate", url=url)
    browser.until("document.activeElement?.id === 'key'")
    browser.write(KEY)
    browser.until("document.getElementById('model').textContent === 'lm'")
    browser.value("document.getElementById('text').focus()")
    browser.write("The file")
    browser.until("document.querySelector('.writing')?.textContent")
    browser.value("document.getElementById('stop').click()")
    browser.until("!document.querySelector('.writing')")
    assert browser.value("document.getElementById('problem').hidden")
    browser.value("document.getElementById('new').click()")
    assert browser.value("document.querySelectorAll('.message').length") == 0
