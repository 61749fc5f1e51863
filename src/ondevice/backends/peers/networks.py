"""Other engines on an ONNX network with one input and one output, in float32, for comparison.

Knows their sessions. Knows nothing of clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.backends.peers.mnn import MnnNetwork
from ondevice.errors import BadInput, MissingExtra

Floats = npt.NDArray[np.float32]
Run = Callable[[Floats], Floats]


def open_peer_network(engine: str, path: str | Path, shape: Sequence[int], threads: int = 1) -> Run:
    """A call from the input, of this shape, to the output. engine: one of NETWORK_PEERS.

    Raises BadInput for another engine, MissingExtra where it is not installed.
    """
    if engine not in NETWORK_PEERS:
        raise BadInput(f"no engine {engine!r} for networks; there are: {', '.join(NETWORK_PEERS)}")
    return NETWORK_PEERS[engine](Path(path), tuple(shape), threads)


def _onnxruntime(path: Path, shape: tuple[int, ...], threads: int) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "onnx", "to compare with it") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(x: Floats) -> Floats:
        made: Floats = session.run(None, {name: x})[0]
        return made

    return run


def _openvino(path: Path, shape: tuple[int, ...], threads: int) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("openvino", "peers", "to compare with it") from error
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(shape))
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(x: Floats) -> Floats:
        request.infer([x])
        return np.array(request.get_output_tensor(0).data, np.float32)

    return run


def _mnn(path: Path, shape: tuple[int, ...], threads: int) -> Run:
    return MnnNetwork(path, shape, threads=threads).run


NETWORK_PEERS: dict[str, Callable[[Path, tuple[int, ...], int], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "mnn": _mnn,
}
