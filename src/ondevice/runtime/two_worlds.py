"""The two worlds of `runtime.tee` as two processes of this machine, started and ended together.

Knows processes and pipes. Knows nothing of models or of what the worlds say to each other.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ondevice.devices.storage import Storage, ThrottledStorage
from ondevice.errors import BadInput, OndeviceError
from ondevice.runtime.io import FileStorage
from ondevice.runtime.schedule.restoration import Policy
from ondevice.runtime.tee import NormalWorld, TrustedApp, Wires


class TwoWorlds:
    """A trusted application in one process and its normal world in another; used in a `with` block.

    bandwidth: of the storage, bytes/s, throttled; None for the disk as it is. protected: False for an application that
    reads the artifact itself, without a normal world. Calls are those of `TrustedApp`, errors included.
    """

    def __init__(
        self,
        folder: str | Path,
        key_file: str | Path | None,
        *,
        threads: int = 1,
        context: int = 2048,
        bandwidth: float | None = None,
        protected: bool = True,
    ) -> None:
        if protected and not hasattr(os, "memfd_create"):
            raise BadInput("two worlds need memory that processes share by a descriptor; run this on Linux")
        spawn = multiprocessing.get_context("spawn")
        self._wire, theirs = spawn.Pipe()
        self._processes: list[Any] = []
        ours: Wires | None = None
        if protected:
            pairs = [spawn.Pipe() for _ in range(3)]
            ours, others = Wires(*(pair[0] for pair in pairs)), Wires(*(pair[1] for pair in pairs))
            self._processes.append(spawn.Process(target=_normal, args=(others, bandwidth), daemon=True))
        settings = {"threads": threads, "context": context}
        given = (theirs, folder, key_file, ours, bandwidth, settings)
        self._processes.append(spawn.Process(target=_trusted, args=given, daemon=True))
        for process in self._processes:
            process.start()
        theirs.close()
        if ours:
            ours.close()
            others.close()
        try:
            self._reply()
        except BaseException:
            self.close()
            raise

    @property
    def trusted_pid(self) -> int:
        return int(self._processes[-1].pid)

    @property
    def normal_pid(self) -> int:
        """The trusted one's, where there is no other."""
        return int(self._processes[0].pid)

    def answer(self, prompt: Sequence[int], count: int = 1, policy: Policy = "preempt") -> dict[str, Any]:
        return dict(self._call("answer", list(prompt), count, policy))

    def give_back(self, keep: float) -> None:
        self._call("give_back", keep)

    def close(self) -> None:
        """End both processes."""
        self._wire.close()
        for process in self._processes:
            process.kill()
            process.join()

    def __enter__(self) -> TwoWorlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        self._wire.send((name, arguments))
        return self._reply()

    def _reply(self) -> Any:
        try:
            answer = self._wire.recv()
        except EOFError:
            raise BadInput("the trusted application has ended; start it again") from None
        if isinstance(answer, OndeviceError):
            raise answer
        return answer


def fit_prompt(worlds: TwoWorlds, share: float, ids: Sequence[int]) -> tuple[list[int], float]:
    """As many of the tokens as take so much of the time that restoring everything takes, and that time in seconds."""

    def restored() -> float:
        worlds.give_back(0)
        return float(worlds.answer(ids[:1])["seconds"])

    worlds.answer(ids)  # memory that the system gives out for the first time is slow
    whole = statistics.median(restored() for _ in range(3))
    count = len(ids) // 4
    for _ in range(3):
        taken = statistics.median(worlds.answer(ids[:count])["seconds"] for _ in range(3))
        count = int(min(len(ids), max(16, count * share * whole / taken)))
    return list(ids[:count]), whole


def _normal(wires: Wires, bandwidth: float | None) -> None:
    NormalWorld(wires, _storage(bandwidth)).serve()


def _trusted(
    wire: Connection,
    folder: str | Path,
    key_file: str | Path | None,
    wires: Wires | None,
    bandwidth: float | None,
    settings: dict[str, Any],
) -> None:
    call: Callable[..., Any]
    with suppress(EOFError, OSError):
        try:
            app = TrustedApp(folder, key_file, wires, storage=_storage(bandwidth), **settings)
            wire.send("open")
        except OndeviceError as problem:
            wire.send(problem)
            return
        while True:
            name, arguments = wire.recv()
            call = app.answer if name == "answer" else app.give_back
            try:
                wire.send(call(*arguments))
            except OndeviceError as problem:
                wire.send(problem)


def _storage(bandwidth: float | None) -> Storage:
    return FileStorage() if bandwidth is None else ThrottledStorage(FileStorage(), bandwidth)
