"""The ONNX Runtime backend: an artifact as an ONNX graph, and the session that runs it."""

from __future__ import annotations

from ondevice.errors import MissingExtra

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ImportError as error:
    raise MissingExtra(error.name or "onnxruntime", "onnx", "to run or export ONNX") from error

from ondevice.backends.onnxruntime.graph import encoder_graph
from ondevice.backends.onnxruntime.session import OnnxSession, open_artifact

__all__ = ["OnnxSession", "encoder_graph", "open_artifact"]
