"""A model in a trusted world: its weights are plain there only, the normal world supplies memory, storage and a queue.

Knows sealed artifacts, two processes and what they say to each other. The normal world's process reads ciphertext into
memory that it lends; the trusted one decrypts it into memory of its own, and computes. *This simulates* Arm TrustZone:
encryption, pipeline and protocol are real, isolation is what the system gives to two processes. The description of an
artifact (sizes, tags) is read by the trusted world itself; it is bound to every segment's authentication.

Source: "TZ-LLM: Protecting On-Device Large Language Models with Arm TrustZone".
"""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.artifact import Artifact, Place
from ondevice.devices.npu import CoDriver, ControlPlane, SimNPU
from ondevice.devices.storage import Read, Storage, Ticket
from ondevice.errors import BadArtifact, OndeviceError, ProtocolViolation
from ondevice.kernels import Kernels
from ondevice.measure.timeline import Timeline
from ondevice.runtime.decoder import Decoder, Shape
from ondevice.runtime.io import ALIGNED, room
from ondevice.runtime.schedule.restoration import Policy
from ondevice.runtime.weights.encrypted import unlocked
from ondevice.runtime.weights.region import Region
from ondevice.runtime.weights.restored import OwnMemory, Restored

_LANES = ("alloc", "read", "decrypt", "cpu", "npu", "wait")


@dataclass(frozen=True)
class Block:
    """Memory that the normal world offers: where it begins, and bytes."""

    start: int
    nbytes: int


class SecureRegion:
    """Contiguous secure memory, from 0: [0, protected) is private, [protected, allocated) still the normal world's to
    write. bytes: the private memory. The trusted world believes nothing: every block is checked."""

    def __init__(self, nbytes: int) -> None:
        self._region = Region(nbytes)
        self.bytes = self._region.bytes
        self.allocated = self.protected = 0

    def extend_allocated(self, block: Block) -> None:
        """The normal world adds a block. Raises ProtocolViolation unless it begins where the region ends, is whole
        pages, and fits."""
        if block.start != self.allocated:
            raise ProtocolViolation(
                f"a block at {block.start} was offered, the secure region ends at {self.allocated}: not adjacent"
            )
        if block.nbytes < 1 or block.nbytes % ALIGNED or block.start + block.nbytes > len(self.bytes):
            raise ProtocolViolation(
                f"a block of {block.nbytes} bytes is none of whole pages within the region"
            )
        self._region.touch(self.allocated, self.allocated + block.nbytes)
        self.allocated += block.nbytes

    def extend_protected(self, nbytes: int) -> None:
        """So many bytes more are private from now on. Raises ProtocolViolation for more than are allocated."""
        if nbytes < 0 or self.protected + nbytes > self.allocated:
            raise ProtocolViolation(
                f"{nbytes} bytes cannot be protected, {self.allocated - self.protected} are there"
            )
        self.protected += nbytes

    def shrink(self, nbytes: int) -> None:
        """Wipe so many bytes at the end and give them back. Raises ProtocolViolation for more than there are, or
        parts of pages."""
        if nbytes < 0 or nbytes > self.allocated or nbytes % ALIGNED:
            raise ProtocolViolation(f"a region of {self.allocated} bytes cannot shrink by {nbytes}")
        self.allocated -= nbytes
        self.protected = min(self.protected, self.allocated)
        if nbytes:
            self._region.release(self.allocated)


@dataclass(frozen=True)
class Wires:
    """What one world hears the other through, a connection for each purpose."""

    memory: Connection
    storage: Connection
    npu: Connection

    def close(self) -> None:
        for each in (self.memory, self.storage, self.npu):
            each.close()


class NormalWorld:
    """Memory that is lent, storage, and the accelerator's queue. It has no key.

    wires: to the trusted world. storage: that it reads. `serve` runs until the wires are closed.
    """

    def __init__(self, wires: Wires, storage: Storage) -> None:
        self._wires, self._storage = wires, storage
        self._lent: mmap.mmap | None = None
        self._file, self._end = -1, 0

    def serve(self) -> None:
        """Answer requests, each kind in a thread of its own."""
        threads = [threading.Thread(target=each) for each in (self._memory, self._reads, self._queue)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _memory(self) -> None:
        wire = self._wires.memory
        with suppress(EOFError, OSError):
            while True:
                what, *given = _hear(wire)
                if what == "size":
                    self._file = os.memfd_create("lent", os.MFD_CLOEXEC)
                    os.ftruncate(self._file, given[0])
                    self._lent = mmap.mmap(self._file, given[0])
                    _say(wire, "made")
                    send_handle(wire, self._file, None)
                elif what == "allocate":
                    os.posix_fallocate(self._file, self._end, given[0])
                    _say(wire, [self._end, given[0]])
                    self._end += given[0]
                elif what == "free" and self._lent is not None:
                    self._lent.madvise(mmap.MADV_REMOVE, given[0], given[1])
                elif what == "end":
                    self._end = given[0]

    def _reads(self) -> None:
        wire, going = self._wires.storage, deque[Ticket | OndeviceError]()
        with suppress(EOFError, OSError):
            while True:
                while wire.poll(0 if going else None):
                    path, offset, nbytes, at = _hear(wire)
                    assert self._lent is not None
                    into = np.frombuffer(self._lent, np.uint8)[at : at + room(offset, nbytes)]
                    try:
                        going.append(self._storage.read(Path(path), offset, nbytes, into))
                    except OndeviceError as problem:
                        going.append(problem)
                first = going.popleft()
                try:
                    if isinstance(first, OndeviceError):
                        raise first
                    read = first.wait()
                    _say(wire, [read.started, read.ended, read.direct])
                except OndeviceError as problem:
                    _say(wire, str(problem))

    def _queue(self) -> None:
        wire = self._wires.npu

        def secure(number: int) -> None:
            _say(wire, number)
            _hear(wire)  # it has given the accelerator back

        plane = ControlPlane(None, secure)
        with suppress(EOFError, OSError):
            while True:
                plane.submit_shadow(_hear(wire))
                while plane.turn():
                    pass


class _Lent:
    """A supply (see `weights.restored.Supply`) of what the normal world lends."""

    def __init__(self, nbytes: int, wires: Wires) -> None:
        self._region, self._wires = SecureRegion(-(-nbytes // ALIGNED) * ALIGNED), wires
        self.memory = self._region.bytes
        _say(wires.memory, ["size", len(self.memory)])
        _hear(wires.memory)
        file = recv_handle(wires.memory)
        self._lent = mmap.mmap(file, len(self.memory), mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(file)
        self.window = np.frombuffer(self._lent, np.uint8)

    def allocate(self, start: int, stop: int) -> None:
        _say(self._wires.memory, ["allocate", stop - start])
        self._region.extend_allocated(Block(*_numbers(_hear(self._wires.memory), 2)))
        if self._region.allocated != stop:
            raise ProtocolViolation(f"{stop - start} bytes were asked for, others were given")

    def read(self, place: Place, at: int) -> Ticket:
        _say(self._wires.storage, [str(place.path), place.offset, place.nbytes, at])
        return _Asked(self._wires.storage)

    def protect(self, start: int, stop: int) -> None:
        self._region.extend_protected(stop - start)

    def arrived(self, start: int, stop: int) -> None:
        _say(self._wires.memory, ["free", start, stop - start])

    def release(self, start: int) -> None:
        if self._region.allocated > self._region.protected:
            self.arrived(self._region.protected, self._region.allocated)
        self._region.shrink(self._region.allocated - start)
        _say(self._wires.memory, ["end", self._region.allocated])


@dataclass(frozen=True)
class _Asked:
    wire: Connection

    def wait(self) -> Read:
        answer = _hear(self.wire)
        if isinstance(answer, str):
            raise BadArtifact(answer)
        if not (isinstance(answer, list) and [type(each) for each in answer] == [float, float, bool]):
            raise ProtocolViolation(f"a read was answered by {answer!r}")
        return Read(*answer)


def _say(wire: Connection, what: object) -> None:
    """Plain data only: what one world says must not be able to run anything in the other."""
    wire.send_bytes(json.dumps(what).encode())


def _hear(wire: Connection) -> Any:
    try:
        return json.loads(wire.recv_bytes())
    except ValueError as problem:
        raise ProtocolViolation(f"the other world sent no message: {problem}") from problem


def _numbers(what: object, count: int) -> list[int]:
    if not (isinstance(what, list) and len(what) == count and all(type(each) is int for each in what)):
        raise ProtocolViolation(f"the other world sent {what!r} for {count} numbers")
    return what


class TrustedApp:
    """A decoder that answers from weights which only it sees plainly.

    folder: of an artifact. key_file: where it is sealed. wires: to a normal world; None where the artifact is read by
    the application itself, which is the unprotected way to do it. storage: of that way.
    Raises BadInput or BadArtifact as `encrypted.unlocked`.
    """

    def __init__(
        self,
        folder: str | Path,
        key_file: str | Path | None,
        wires: Wires | None,
        *,
        threads: int,
        context: int,
        storage: Storage | None = None,
    ) -> None:
        artifact = Artifact(folder)
        tensors, _ = unlocked(artifact, key_file)
        self._timeline, self._driver, self._wires = Timeline(), CoDriver(SimNPU()), wires
        self._source = Restored(
            tensors,
            Shape.of(artifact.config).layers,
            (lambda nbytes: _Lent(nbytes, wires)) if wires else (lambda nbytes: OwnMemory(nbytes, storage)),
            timeline=self._timeline,
            npu=self._on_npu if wires else None,
        )
        self._decoder = Decoder(self._source, artifact.config, Kernels(threads), context=context)

    def answer(self, prompt: Sequence[int], count: int = 1, policy: Policy = "preempt") -> dict[str, Any]:
        """`count` greedy tokens. "seconds": to the first one; "rest": of the others; "lanes": of each, how long it was
        busy until the first; "held": bytes decrypted before; "read": bytes read; "nbytes": of everything."""
        source, sequence = self._source, self._decoder.cache.sequence()
        source.policy, held, read = policy, source.bytes_resident, source.bytes_read
        self._timeline.spans.clear()
        try:
            started = time.perf_counter()
            tokens = [int(self._decoder.step([(sequence, prompt)])[0][0].argmax())]
            first = time.perf_counter()
            lanes = {lane: self._timeline.busy(lane) for lane in _LANES}
            for _ in range(count - 1):
                tokens.append(int(self._decoder.step([(sequence, tokens[-1:])])[0][0].argmax()))
            ended = time.perf_counter()
        finally:
            sequence.free()
        return {
            "tokens": tokens, "seconds": first - started, "rest": ended - first, "lanes": lanes, "held": held,
            "read": source.bytes_read - read, "nbytes": source.nbytes,
        }  # fmt: skip

    def give_back(self, keep: float) -> None:
        """See `weights.restored.Restored.give_back`."""
        self._source.give_back(keep)

    @contextmanager
    def _on_npu(self, name: str) -> Iterator[None]:
        """One secure job: its shadow goes through the normal world's queue."""
        assert self._wires is not None
        _say(self._wires.npu, self._driver.prepare())
        [scheduled] = _numbers([_hear(self._wires.npu)], 1)
        try:
            with self._driver.issued(scheduled):
                yield
        finally:
            _say(self._wires.npu, "returned")
