"""The chat in a terminal: a real one, that is a pseudo-terminal with a child at its end."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from ondevice.models import zoo


class Terminal:
    def __init__(self, *command: str) -> None:
        self.child, self._fd = pty.fork()
        if self.child == 0:
            os.execv(sys.executable, [sys.executable, "-m", "ondevice", *command])
        self.shown = ""

    def until(self, text: str, seconds: float = 60) -> str:
        """What is shown, up to and with a text."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} is not in {self.shown!r}"
            if select.select([self._fd], [], [], 0.1)[0]:
                self.shown += os.read(self._fd, 65536).decode(errors="replace")
        at = self.shown.index(text) + len(text)
        before, self.shown = self.shown[:at], self.shown[at:]
        return before

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> int:
        for _ in range(600):
            done, status = os.waitpid(self.child, os.WNOHANG)
            if done:
                os.close(self._fd)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.child, signal.SIGKILL)
        raise AssertionError(f"it does not end: {self.shown!r}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for file in zoo.locate("reference-lm").iterdir():
        (tmp_path / file.name).symlink_to(file)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    (tmp_path / "chat_template.jinja").write_text(template)
    return tmp_path


def test_a_chat_with_an_answer_that_is_stopped(folder: Path) -> None:
    terminal = Terminal("run", str(folder), "--limit", "6", "--memory", "200MB", "--system", "You are brief.")
    assert "context: 512 tokens" in terminal.until("Ctrl-D leaves")
    terminal.type("hello\n")
    terminal.until("6 tokens, ")
    terminal.type("/reset\n")
    terminal.until("forgotten")
    terminal.type("\x04")
    assert terminal.end() == 0
    terminal = Terminal(
        "run", str(folder), "--limit", "400", "--repetition", "1.3", "--temperature", "2", "--threads", "1"
    )
    terminal.until("Ctrl-D leaves")
    terminal.type("The file\n")
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.until(" tokens")
    terminal.until("> ")
    terminal.type("again\n")  # the chat goes on
    time.sleep(0.3)
    terminal.type("\x03")
    terminal.until(" tokens")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_a_chat_that_is_too_long_says_so(folder: Path) -> None:
    terminal = Terminal("run", str(folder), "--limit", "4", "--context", "40")
    terminal.until("Ctrl-D leaves")
    terminal.type("word " * 60 + "\n")
    terminal.until("/reset begins anew")
    terminal.type("\x04")
    assert terminal.end() == 0


def test_tasks_are_done_by_name_and_leave_no_trace(folder: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.toml"
    tasks.write_text('[title]\ninstruction = "\\nA title:"\nlimit = 5\n')
    shown = []
    for said in (("hello", "how are you"), ("hello", "/title", "/title", "how are you")):
        terminal = Terminal("run", str(folder), "--limit", "6", "--subtasks", str(tasks))
        terminal.until("tasks: /title")
        answers = []
        terminal.until("> ")
        for each in said:
            terminal.type(f"{each}\n")
            terminal.until(f"{each}\r\n")
            answers.append(terminal.until("> ").split("\x1b[2m")[0])  # without its times
        terminal.type("\x04")
        assert terminal.end() == 0
        shown.append(answers)
    assert shown[0] == [shown[1][0], shown[1][3]]
    assert shown[1][1] == shown[1][2]
