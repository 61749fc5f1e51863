"""One thread that runs the engine for many requests.

Knows the engine and how answers are spelt. Knows nothing of HTTP: what a request gets is handed to its callback.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from ondevice.errors import BadInput, Busy
from ondevice.runtime.decode.constraint import Constraint
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decode.spelling import Piece, Spelling
from ondevice.runtime.engine import Engine

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """What a request hears. finish: None, or why this is the last: "stop", "length", or "error" with `error`."""

    pieces: list[Piece]
    finish: str | None = None
    error: str = ""


@dataclass
class _Request:
    number: int
    ids: list[int]
    sampling: Sampling
    limit: int
    spelling: Spelling
    constraint: Constraint | None
    deliver: Callable[[Update], None]
    text: int | None = field(default=None)


class Worker:
    """Runs texts as they come, up to `slots` at once; as many as `queue` more wait.

    ends: tokens that end an answer. Deliveries come from the worker's thread.
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, ends: frozenset[int], *, slots: int = 64, queue: int = 256
    ) -> None:
        if slots < 1 or queue < 0:
            raise BadInput(f"a worker needs a slot and no negative queue, not {slots} and {queue}")
        self._engine, self._tokenizer, self._ends = engine, tokenizer, ends
        self._slots, self._queue = slots, queue
        self._numbers = count()
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}  # by the engine's number
        self._cancelled: set[int] = set()
        self._turn = threading.Condition()
        self._closing = False
        self.tokens_written = 0
        self._thread = threading.Thread(target=self._serve, name="ondevice-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Texts that are being written."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Texts that wait for a slot."""
        return len(self._waiting)

    def gauges(self) -> dict[str, int]:
        """How it stands now; see `metrics.py`."""
        cache = self._engine.decoder.cache
        return {
            "running": self.running,
            "waiting": self.waiting,
            "tokens_written_total": self.tokens_written,
            "tokens_reused_total": self._engine.reused,
            "cache_bytes": cache.bytes_used,
            "cache_bytes_kept": self._engine.kept.nbytes,
            "cache_bytes_limit": cache.nbytes,
        }

    def submit(
        self,
        ids: Sequence[int],
        sampling: Sampling,
        limit: int,
        stop: Sequence[str],
        deliver: Callable[[Update], None],
        constraint: Constraint | None = None,
    ) -> int:
        """Begin a text; the number to cancel it by. Raises Busy where the queue is full, BadInput for a prompt that
        the context does not hold."""
        context = self._engine.decoder.context
        if not len(ids) or len(ids) >= context:
            raise BadInput(
                f"the prompt has {len(ids)} tokens; it needs one, and fewer than the context of {context}"
            )
        if limit < 1:
            raise BadInput(f"the most tokens to write must be 1 or more, not {limit}")
        spelling = Spelling(self._tokenizer, ids if self._engine.continues else (), stop)
        request = _Request(next(self._numbers), list(ids), sampling, limit, spelling, constraint, deliver)
        with self._turn:
            if self._closing:
                raise Busy("the server is shutting down")
            if len(self._waiting) >= self._queue + max(0, self._slots - len(self._running)):
                raise Busy(f"{len(self._waiting)} requests are waiting already; try again later")
            self._waiting.append(request)
            self._turn.notify()
        return request.number

    def cancel(self, number: int) -> None:
        """End a text without another word, and free what it holds; nothing where it has ended."""
        with self._turn:
            self._cancelled.add(number)
            self._turn.notify()

    def close(self, seconds: float = 30.0) -> None:
        """Take no more, finish what runs within so many seconds, and end the thread."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        self._thread.join(seconds)
        with self._turn:
            for request in [*self._waiting, *self._running.values()]:
                self._cancelled.add(request.number)
            self._turn.notify()
        self._thread.join()

    def _serve(self) -> None:
        more = True
        while more:
            try:
                more = self._turn_once()
            except (
                Exception
            ) as problem:  # whatever it is, those who wait must hear of it, and the next be served
                _log.exception("a step of the engine failed")
                for text, request in list(self._running.items()):
                    self._end(text)
                    self._say(request, Update([], "error", f"the engine failed: {problem!r}"))

    def _turn_once(self) -> bool:
        """Wait for work and do a step of it; False when there is no more to come."""
        with self._turn:
            while not (self._waiting or self._running or self._closing):
                self._cancelled.clear()  # of texts that had ended
                self._turn.wait()
            self._drop_cancelled()
            if self._closing and not (self._waiting or self._running):
                return False
            while self._waiting and len(self._running) < self._slots:
                self._begin(self._waiting.popleft())
        if self._running:
            self._step()
        return True

    def _say(self, request: _Request, update: Update) -> None:
        """Who does not listen any more, such as a loop that has ended, is no reason to stop."""
        try:
            request.deliver(update)
        except RuntimeError:
            _log.debug("text %d ended, and nobody heard", request.number)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(each for each in self._waiting if each.number not in self._cancelled)
        for text, request in list(self._running.items()):
            if request.number in self._cancelled:
                self._end(text)
        self._cancelled.clear()

    def _begin(self, request: _Request) -> None:
        try:
            text = self._engine.add(
                request.ids,
                sampling=request.sampling,
                limit=request.limit,
                stops=tuple(self._ends),
                constraint=request.constraint,
            )
        except Exception as problem:  # such as a prompt that the whole cache does not hold
            self._say(request, Update([], "error", str(problem)))
        else:
            self._running[text] = request

    def _step(self) -> None:
        written = self._engine.step()
        for each in written:
            request = self._running[each.text]
            if each.finish == "error":
                self._end(each.text)
                self._say(request, Update([], "error", each.error))
                continue
            self.tokens_written += 1
            pieces = [] if each.finish == "stop" else request.spelling.add(each.choice)
            finish = "stop" if request.spelling.stopped or each.finish == "complete" else each.finish
            if finish:
                pieces += request.spelling.rest()
                self._end(each.text)
            if pieces or finish:
                self._say(request, Update(pieces, finish))

    def _end(self, text: int) -> None:
        self._engine.cancel(text)
        del self._running[text]
