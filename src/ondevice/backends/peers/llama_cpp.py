"""llama.cpp, prebuilt (`xllamacpp`), behind the protocol of `decoders`.

Knows xllamacpp's server, which is in this process: no socket is between us and it. Knows nothing of how the GGUF file
was made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ondevice.backends.peers.decoders import Generation
from ondevice.errors import BadInput


class LlamaCppDecoder:
    """A GGUF file on llama.cpp: weights repacked for the processor and flash attention where it thinks fit, as by
    default. Raises BadInput where it cannot open the file."""

    def __init__(self, model: Path, threads: int, context: int) -> None:
        import xllamacpp

        if not model.is_file():
            raise BadInput(f"{model} is no GGUF file")
        settings = xllamacpp.CommonParams()
        settings.model.path = os.fspath(model)
        settings.n_ctx, settings.n_parallel = context, 1
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.warmup, settings.verbosity = False, 0
        settings.cache_ram_mib, settings.n_ctx_checkpoints = 0, 0  # what it keeps of earlier prompts
        try:
            self.server: Any = xllamacpp.Server(settings)
        except Exception as problem:  # the binding raises bare Exceptions
            raise BadInput(f"llama.cpp cannot open {model}: {problem}") from problem

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
