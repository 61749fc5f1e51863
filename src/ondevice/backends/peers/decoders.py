"""Decoders on other engines, under one small protocol, to be timed beside ours: a prompt of ids goes in, so many
greedy tokens come out.

Knows how each engine opens a model and writes. Measures nothing but an engine's own split of its time into the prompt
and the rest. Each is meant for a process of its own (`measure.apart`): their threads disturb each other.

    native      our runtime: a Hugging Face folder, a GGUF file or an artifact, or random weights in tiles
    llama.cpp   a GGUF file, weights repacked (its default), see `llama_cpp` for the builds
    openvino    the graph that OpenVINO GenAI makes of a GGUF file, see `openvino_decoder`
    torch       transformers, bfloat16: a Hugging Face folder, or a configuration with random weights
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from ondevice.backends.peers.generation import DecoderEngine, Generation
from ondevice.errors import BadInput, MissingExtra
from ondevice.runtime.weights.shapes import SHAPES

# engine -> (packages, the extra that installs them)
DECODERS: dict[str, tuple[tuple[str, ...], str]] = {
    "native": ((), ""),
    "llama.cpp": (("gguf", "xllamacpp"), "peers"),
    "openvino": (("gguf", "openvino", "openvino_genai"), "peers"),
    "torch": (("torch", "transformers"), "fit"),
}


def missing_decoder(engine: str) -> MissingExtra | None:
    """What has to be installed for an engine; None where it can run. Imports nothing."""
    packages, extra = DECODERS[engine]
    absent = next((package for package in packages if find_spec(package) is None), None)
    return None if absent is None else MissingExtra(absent, extra, f"to compare with {engine}")


def open_decoder(
    engine: str, model: str | Path, *, threads: int, context: int, bits: int = 4
) -> DecoderEngine:
    """A model on an engine. model: a file or folder as the engine reads it, or, for native and torch, the name of a
    published shape, which gets random weights: in tiles of so many `bits` (native), or bfloat16 (torch).

    context: longest text in tokens. Raises BadInput for an unknown engine.
    """
    if engine not in DECODERS:
        raise BadInput(f"no engine {engine!r}; there are: {', '.join(DECODERS)}")
    if engine == "native":
        return NativeDecoder(model, threads, context, bits)
    if engine == "torch":
        return TorchDecoder(model, threads)
    if engine == "llama.cpp":
        from ondevice.backends.peers.llama_cpp import open_llama_cpp

        return open_llama_cpp(Path(model), threads, context)
    from ondevice.backends.peers.openvino_decoder import OpenVinoDecoder

    return OpenVinoDecoder(Path(model), threads)


class NativeDecoder:
    """Our runtime."""

    def __init__(self, model: str | Path, threads: int, context: int, bits: int) -> None:
        from ondevice.backends.language import LanguageSession
        from ondevice.kernels import Kernels
        from ondevice.runtime.decoder import Decoder
        from ondevice.runtime.engine import Engine
        from ondevice.runtime.weights.random import random_decoder

        if str(model) in SHAPES:
            config, tensors = random_decoder(str(model), bits=bits)
            self.engine = Engine(Decoder(tensors, config, Kernels(threads), context=context))
        else:
            # an engine of its own: one that keeps what it has read would not read a prompt again
            self.engine = Engine(LanguageSession.open(model, threads=threads, context=context).engine.decoder)

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        start = time.perf_counter()
        written, first = [], 0.0
        for choice in self.engine.stream(prompt, limit=tokens):
            first = first or time.perf_counter() - start
            written.append(choice.token)
        return Generation(first, time.perf_counter() - start - first, tuple(written))

    def stepper(self, prompt: Sequence[int], tokens: int) -> Callable[[], object]:
        """A call that writes one token; every so many, the prompt is read again and the answer begins anew."""
        answers = (choice for _ in count() for choice in self.engine.stream(prompt, limit=tokens))
        return lambda: next(answers)

    def close(self) -> None:
        del self.engine


class TorchDecoder:
    """transformers on PyTorch, in bfloat16, its own cache of keys and values, eager."""

    def __init__(self, model: str | Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        if str(model) in SHAPES:
            config = transformers.AutoConfig.for_model(**SHAPES[str(model)])
            with torch.device("meta"):
                empty: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
            module = empty.to_empty(device="cpu")
            generator = torch.Generator().manual_seed(0)
            for parameter in module.parameters():
                parameter.data.normal_(0.0, 0.02, generator=generator)
            # a buffer that was never filled may hold anything, and numbers that are not finite may be slower
            module.model.rotary_emb = type(module.model.rotary_emb)(config)
        else:
            module = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        self.module: Any = module.eval()

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        import torch

        start = time.perf_counter()
        ids, cache, written, first = torch.tensor([list(prompt)]), None, [], 0.0
        with torch.inference_mode():
            for _ in range(tokens):
                out = self.module(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
                written.append(int(ids))
                first = first or time.perf_counter() - start
        return Generation(first, time.perf_counter() - start - first, tuple(written))

    def close(self) -> None:
        del self.module
