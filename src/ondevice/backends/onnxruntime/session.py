"""A session on ONNX Runtime.

Knows how a graph is run. How it is built is `graph.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from tokenizers import Tokenizer

from ondevice.artifact import Artifact
from ondevice.backends.onnxruntime.graph import encoder_graph
from ondevice.backends.session import Session, Tokens, padded
from ondevice.errors import BadArtifact, BadInput
from ondevice.models.tasks import Floats, Task


def open_artifact(artifact: Artifact, *, threads: int | None = None) -> OnnxSession:
    """An artifact on ONNX Runtime's CPU provider.

    Agrees with torch on the same artifact. Float activations and up to 4 bits: to 5e-5 in an embedding's values. int8
    activations and 5 to 8 bits: the same integers but where a rounding falls between two, cosine of embeddings
    at least 0.999. int8 activations and up to 4 bits: MatMulNBits rounds activations by blocks where torch does by
    tokens, cosine with MiniLM at least 0.985.
    Float activations and 5 to 8 bits: ONNX Runtime rounds activations by blocks too, at least 0.999.
    """
    task = Task.from_json(artifact.task)
    graph = encoder_graph(artifact.tensors, artifact.config, task).SerializeToString()
    return OnnxSession(graph, artifact.config, Tokenizer.from_str(artifact.tokenizer_json), task, threads)


class OnnxSession(Session):
    """Runs an ONNX graph with inputs input_ids and attention_mask.

    graph: its bytes, or its file. threads: all processors unless told otherwise.
    """

    backend = "onnxruntime"

    def __init__(
        self,
        graph: bytes | Path,
        config: Mapping[str, Any],
        tokenizer: Any,
        task: Task,
        threads: int | None = None,
    ) -> None:
        super().__init__(tokenizer, task)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._padding = int(config.get("pad_token_id") or 0)
        try:
            self._runtime: Any = onnxruntime.InferenceSession(
                graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # its classes are bound from C++, one a status
            raise BadArtifact(f"ONNX Runtime refuses the graph: {problem}") from problem

    def hidden(self, token_ids: Tokens) -> list[Floats]:
        states = self._run(token_ids)
        return [states[row, : len(tokens)] for row, tokens in enumerate(token_ids)]

    def logits(self, token_ids: Tokens) -> Floats:
        return self._run(token_ids)

    def close(self) -> None:
        super().close()
        self._runtime = None

    def _run(self, token_ids: Tokens) -> Floats:
        if self._runtime is None:
            raise BadInput("this session is closed; open a new one")
        ids, mask = padded(token_ids, self._padding)
        try:
            (output,) = self._runtime.run(None, {"input_ids": ids, "attention_mask": mask})
        except Exception as problem:
            raise BadArtifact(
                f"the model cannot run: its layers or its tokenizer do not fit ({problem})"
            ) from problem
        result: Floats = output
        return result
