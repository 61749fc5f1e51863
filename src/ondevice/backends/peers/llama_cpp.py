"""llama.cpp behind the protocol of `decoders`, in the best build at hand.

Knows the two bindings. `llama_cpp` (llama-cpp-python) is compiled where it is installed, for that processor: the peer
to measure against. `xllamacpp` comes prebuilt, without AVX-512 or VNNI: on a processor that has them it reads prompts
at a third of the speed, so what it gives is named "AVX2 build". Knows nothing of how the GGUF file was made.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from ondevice.backends.peers.generation import Generation
from ondevice.errors import BadInput


def llama_cpp_build() -> str:
    """Which build `open_llama_cpp` takes: "native build" or "AVX2 build"; "portable build" off x86."""
    if find_spec("llama_cpp") is not None:
        return "native build"
    import xllamacpp

    return "AVX2 build" if "AVX2 = 1" in xllamacpp.get_system_info() else "portable build"


def open_llama_cpp(model: Path, threads: int, context: int) -> CompiledLlamaCpp | LlamaCppServer:
    """A GGUF file on llama.cpp: weights repacked for the processor and flash attention where it thinks fit, as by
    default. Raises BadInput where it cannot open the file."""
    if not model.is_file():
        raise BadInput(f"{model} is no GGUF file")
    kind = LlamaCppServer if find_spec("llama_cpp") is None else CompiledLlamaCpp
    try:
        return kind(model, threads, context)
    except Exception as problem:  # both bindings raise bare Exceptions
        raise BadInput(f"llama.cpp cannot open {model}: {problem}") from problem


class CompiledLlamaCpp:
    """llama-cpp-python's own loop: the library's greedy sampler, one call a token."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        import llama_cpp

        self.context = context
        self.llama: Any = llama_cpp.Llama(
            os.fspath(model), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        """The first token comes when the prompt is read. Raises BadInput where both do not fit into the context."""
        if len(prompt) + tokens > self.context:
            raise BadInput(f"{len(prompt)} tokens and {tokens} more are beyond the context of {self.context}")
        self.llama.reset()
        start = time.perf_counter()
        stream = self.llama.generate(list(prompt), top_k=1, temp=0.0)
        written = [next(stream)]
        first = time.perf_counter() - start
        written += islice(stream, tokens - 1)
        return Generation(first, time.perf_counter() - start - first, tuple(written))

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Ids of the tokens it writes."""
        return list(self.generate(prompt, tokens).tokens)

    def close(self) -> None:
        self.llama.close()


class LlamaCppServer:
    """xllamacpp's server, which is in this process: no socket is between us and it."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        import xllamacpp

        settings = xllamacpp.CommonParams()
        settings.model.path = os.fspath(model)
        settings.n_ctx, settings.n_parallel = context, 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.warmup, settings.verbosity = False, 0
        settings.cache_ram_mib, settings.n_ctx_checkpoints = 0, 0  # what it keeps of earlier prompts
        self.server: Any = xllamacpp.Server(settings)

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        """By its own clock, which does not count its server: the first token comes when the prompt is read."""
        timings = self._complete(prompt, tokens)["timings"]
        if timings["prompt_n"] != len(prompt) or timings["predicted_n"] != tokens:
            raise BadInput(f"llama.cpp read {timings['prompt_n']} tokens and wrote {timings['predicted_n']}")
        return Generation(timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3, ())

    def greedy(self, prompt: Sequence[int], tokens: int) -> list[int]:
        """Ids of the tokens it writes; slower than `generate`, as it must give their probabilities too."""
        content = self._complete(prompt, tokens, logprobs=1)["choices"][0]["logprobs"]["content"]
        return [int(each["id"]) for each in content]

    def close(self) -> None:
        del self.server

    def _complete(self, prompt: Sequence[int], tokens: int, **more: Any) -> dict[str, Any]:
        request = {
            "prompt": list(prompt), "n_predict": tokens, "temperature": 0.0, "samplers": ["top_k"], "top_k": 1,
            "ignore_eos": True, "cache_prompt": False,
        }  # fmt: skip
        answer = self.server.handle_completions(request | more)
        found: dict[str, Any] = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
        if "error" in found:
            raise BadInput(f"llama.cpp: {found['error']['message']}")
        return found
