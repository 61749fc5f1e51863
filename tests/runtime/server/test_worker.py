"""The worker goes on whatever happens to one text."""

from __future__ import annotations

import queue
from typing import Any

import pytest

from ondevice.errors import BadInput, Busy
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.engine import Engine, Written
from ondevice.runtime.server.worker import Update, Worker
from ondevice.verbs.open import open_language


class Stumbling(Engine):
    """Fails at one step."""

    stumbles = False

    def step(self) -> list[Written]:
        if self.stumbles:
            self.stumbles = False
            raise ZeroDivisionError("a stone")
        return super().step()


def test_a_step_that_fails_is_told_and_the_next_text_is_written() -> None:
    session = open_language("reference-lm", threads=1)
    engine = Stumbling(session.engine.decoder)
    worker, heard = Worker(engine, session.tokenizer, session.ends, slots=1), queue.Queue[Update]()

    def ask() -> Update:
        worker.submit(session.tokenizer.encode("The file").ids, Sampling(), 4, (), heard.put)
        while not (update := heard.get(timeout=60)).finish:
            pass
        return update

    assert ask().finish == "length"
    engine.stumbles = True
    failed = ask()
    assert failed.finish == "error"
    assert "a stone" in failed.error
    assert ask().finish == "length"
    assert (worker.running, engine.running, engine.decoder.cache.bytes_used) == (0, 0, 0)

    def deaf(_: Any) -> None:
        raise RuntimeError("the loop is closed")

    worker.submit([5], Sampling(), 4, (), deaf)
    assert ask().finish == "length"
    worker.close(5)
    with pytest.raises(Busy, match="shutting down"):
        worker.submit([5], Sampling(), 4, (), heard.put)
    with pytest.raises(BadInput, match="needs one"):
        worker.submit([], Sampling(), 4, (), heard.put)
