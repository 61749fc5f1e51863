"""Convolutional networks from ONNX files on the project's own engine, with ONNX Runtime for what it has no kernel for.

Knows how a file becomes a session. What is decided before the first run is `runtime.preinfer`.
"""

from __future__ import annotations

from ondevice.backends.network.session import NetworkSession, open_network

__all__ = ["NetworkSession", "open_network"]
