"""OpenVINO on a graph of ours: conversion, NNCF's static quantisation, and a session.

Knows OpenVINO and NNCF. Knows nothing of how the graph was made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from ondevice.backends.session import Session, Tokens, padded
from ondevice.errors import BadInput
from ondevice.models.tasks import Floats, Task


def convert(onnx: Path, out: Path) -> None:
    """An ONNX file as OpenVINO's .xml and .bin, in float32."""
    openvino.save_model(openvino.convert_model(onnx), out, compress_to_fp16=False)


def quantize_static(onnx: Path, out: Path, token_ids: Sequence[Sequence[int]]) -> None:
    """Weights and activations in int8, with scales from these token ids (NNCF, model type TRANSFORMER)."""
    import nncf  # type: ignore[import-untyped]

    nncf.set_log_level(logging.ERROR)
    rows = [
        {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        for ids in token_ids
    ]
    model = nncf.quantize(
        openvino.convert_model(onnx),
        nncf.Dataset(rows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
    )
    openvino.save_model(model, out)


class OpenVinoSession(Session):
    """Runs an .xml file on OpenVINO's CPU plugin. half: multiply in bfloat16."""

    backend = "openvino"

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        tokenizer: Any,
        task: Task,
        threads: int,
        *,
        half: bool = False,
    ) -> None:
        super().__init__(tokenizer, task)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        }
        self._padding = int(config.get("pad_token_id") or 0)
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._request: Any = compiled.create_infer_request()

    def hidden(self, token_ids: Tokens) -> list[Floats]:
        states = self._run(token_ids)
        return [states[row, : len(tokens)].copy() for row, tokens in enumerate(token_ids)]

    def logits(self, token_ids: Tokens) -> Floats:
        return self._run(token_ids).copy()

    def close(self) -> None:
        super().close()
        self._request = None

    def _run(self, token_ids: Tokens) -> Floats:
        """The output, in memory that the next run overwrites."""
        if self._request is None:
            raise BadInput("this session is closed; open a new one")
        ids, mask = padded(token_ids, self._padding)
        output: Floats = self._request.infer({"input_ids": ids, "attention_mask": mask}, share_outputs=True)[
            0
        ]
        return output
