"""The float runtime behind a server: its tokens are those of float32 products; it ends with its client."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs uvicorn: pip install 'ondevice-ml[serve]'")
pytest.importorskip("starlette", reason="needs starlette: pip install 'ondevice-ml[serve]'")

from ondevice.backends.peers.dequantizing import BlasKernels, DequantizingServer
from ondevice.errors import BadInput
from ondevice.kernels import Kernels
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.rounded import dequantized
from ondevice.runtime.weights.shapes import SHAPES

SMALL = SHAPES["smollm2-135m"] | {"num_hidden_layers": 2, "vocab_size": 640}


def test_products_on_blas_are_those_of_our_float_kernels() -> None:
    config, tensors = random_decoder(SMALL)
    floats = dequantized(tensors)
    logits = []
    for kernels in (Kernels(1), BlasKernels(1)):
        decoder = Decoder(floats, config, kernels, context=32)
        logits.append(decoder.step([(decoder.cache.sequence(), list(range(20)))], every=True)[0])
    np.testing.assert_allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)


def test_a_served_text_and_its_processor_time() -> None:
    server = DequantizingServer("smollm2-135m", threads=1, context=32)
    before = server.processor_seconds()
    first, again = server.generate(range(300, 306), 4), server.generate(range(300, 306), 4)
    assert len(first.tokens) == 4
    assert again.tokens == first.tokens
    assert server.processor_seconds() > before
    server.close()
    with pytest.raises(OSError):
        server.generate([1], 1)


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(BadInput, match="the server ended"):
        DequantizingServer("no-such-shape", threads=1, context=32)
