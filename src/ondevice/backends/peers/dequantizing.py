"""A runtime as many are built: quantised weights made float32, behind an HTTP server on this machine.

Knows a decoder, Starlette and a socket of the loopback. It is a baseline, and meant to be a fair one: weights are made
float once, at start, not at each product (that form is far slower still); products are NumPy's, on the BLAS it was
built with; attention, norms and cache are our own kernels, as on the other side; tokens are streamed over a connection
that stays open, a line each.

Run as a program it is the server: SHAPE THREADS CONTEXT BITS; it writes its port on a line.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import numpy as np

from ondevice.backends.peers.generation import Generation
from ondevice.errors import BadInput, MissingExtra
from ondevice.kernels import Activation, Floats, Kernels, Linear, reference
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.rounded import dequantized


class BlasKernels(Kernels):
    """Kernels whose products with float32 weights are NumPy's, on BLAS. Its threads are set before NumPy is imported
    (OPENBLAS_NUM_THREADS)."""

    def linear(
        self, x: Floats, layer: Linear, *, activation: Activation = "none", out: Floats | None = None
    ) -> Floats:
        made = np.empty((len(x), layer.rows), np.float32) if out is None else out
        reference.linear(x, layer, activation, made)
        return made


class DequantizingServer:
    """A published shape's random 4-bit weights as floats, served from a process of its own.

    Raises MissingExtra where the server's packages are not there, BadInput where it does not start.
    """

    def __init__(self, shape: str, threads: int, context: int, bits: int = 4) -> None:
        for package in ("starlette", "uvicorn"):
            if find_spec(package) is None:
                raise MissingExtra(package, "serve", "to serve a runtime over HTTP")
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, shape, str(threads), str(context), str(bits)],
            env=os.environ | dict.fromkeys(names, str(threads)),
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        port = self._process.stdout.readline().strip()
        if not port.isdigit():
            raise BadInput(f"the server ended, exit status {self._process.wait()}")
        self._connection = http.client.HTTPConnection("127.0.0.1", int(port))

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        """As its client sees it, the connection included."""
        start, first, written = time.perf_counter(), 0.0, []
        self._connection.request("POST", "/generate", json.dumps({"prompt": list(prompt), "tokens": tokens}))
        answer = self._connection.getresponse()
        while line := answer.readline():
            first = first or time.perf_counter() - start
            written.append(int(json.loads(line)["token"]))
        return Generation(first, time.perf_counter() - start - first, tuple(written))

    def processor_seconds(self) -> float:
        """Processor time of the server so far."""
        self._connection.request("GET", "/processor")
        return float(self._connection.getresponse().read())

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.communicate()


def _serve(shape: str, threads: int, context: int, bits: int) -> None:
    import socket

    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    config, tensors = random_decoder(shape, bits=bits)
    engine = Engine(Decoder(dequantized(tensors), config, BlasKernels(threads), context=context))
    del tensors

    async def generate(request: Request) -> StreamingResponse:
        asked = await request.json()

        def lines() -> Iterator[str]:
            for choice in engine.stream(asked["prompt"], limit=asked["tokens"]):
                yield f'{{"token": {choice.token}}}\n'

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def processor(request: Request) -> PlainTextResponse:
        return PlainTextResponse(repr(time.process_time()))

    routes = [Route("/generate", generate, methods=["POST"]), Route("/processor", processor)]
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    _serve(sys.argv[1], *map(int, sys.argv[2:]))
