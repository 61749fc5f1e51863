"""OpenVINO on a GGUF file, behind the protocol of `decoders`.

Knows OpenVINO and the graph that OpenVINO GenAI makes of a GGUF file. GenAI's own pipeline cannot compile that graph
in 2026.4 ("contains dead weak ptr"), so the graph that it saves is compiled and stepped here, with the one change that
GenAI makes too: logits of the last position alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

from ondevice.backends.peers.generation import Generation
from ondevice.errors import BadInput


def convert_gguf(model: Path, folder: Path) -> Path:
    """Have OpenVINO GenAI make a graph of a GGUF file (llama, qwen2, qwen3; F16, Q8_0, Q4_0); its .xml in `folder`.

    Best in a process of its own: what the conversion holds is no part of running the model.
    """
    import openvino_genai  # type: ignore[import-untyped]

    folder.mkdir(parents=True, exist_ok=True)
    alone = folder / model.name  # GenAI writes beside the file
    os.link(model, alone)
    problem: Exception | None = None
    try:
        openvino_genai.LLMPipeline(alone, "CPU", ATTENTION_BACKEND="SDPA", enable_save_ov_model=True)
    except Exception as error:  # see the head of this file: what was saved before it is whole
        problem = error
    alone.unlink()
    graph = folder / "openvino_model.xml"
    if not graph.exists():
        raise BadInput(f"OpenVINO GenAI cannot read {model}: {problem}")
    for extra in folder.glob("openvino_*tokenizer.*"):
        extra.unlink()
    return graph


class OpenVinoDecoder:
    """A graph of `convert_gguf` on OpenVINO's CPU plugin, for low latency; its defaults for precision."""

    def __init__(self, graph: Path, threads: int) -> None:
        core = openvino.Core()
        model = core.read_model(graph)
        _only_the_last_position(model)
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        self.request: Any = core.compile_model(model, "CPU", settings).create_infer_request()

    def generate(self, prompt: Sequence[int], tokens: int) -> Generation:
        self.request.reset_state()
        start, first = time.perf_counter(), 0.0
        ids, written, past = np.array([prompt], np.int64), [], 0
        for _ in range(tokens):
            end = past + ids.shape[1]
            inputs = {
                "input_ids": ids,
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(past, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            logits = self.request.infer(inputs, share_inputs=True, share_outputs=True)[0]
            written.append(int(logits[0, -1].argmax()))
            ids, past = np.array([written[-1:]], np.int64), end
            first = first or time.perf_counter() - start
        return Generation(first, time.perf_counter() - start - first, tuple(written))

    def close(self) -> None:
        self.request = None


def _only_the_last_position(model: Any) -> None:
    """Cut the hidden states to the last position before the product with the vocabulary."""
    head = model.get_results()[0].input_value(0).get_node()
    while head.get_type_name() != "MatMul":  # conversions may stand between it and the result
        head = head.input_value(0).get_node()
    last = operations.gather(head.input_value(0), np.array([-1]), np.int64(1))
    head.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


__all__ = ["OpenVinoDecoder", "convert_gguf"]
