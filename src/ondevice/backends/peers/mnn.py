"""MNN, for comparison: an ONNX file on the engine that the paper of `systems mnn` describes.

Knows its converter and its session. The converter runs in a process of its own, because it prints.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, MissingExtra

Floats = npt.NDArray[np.float32]


class MnnNetwork:
    """A network with one input and one output, in float32. shape: of the input.

    Raises MissingExtra where MNN is not installed, BadInput for a file that its converter refuses.
    """

    def __init__(self, path: str | Path, shape: Sequence[int], *, threads: int = 1) -> None:
        try:
            import MNN
        except ImportError as error:
            raise MissingExtra("MNN", "peers", "to compare with it") from error
        self._module: Any = MNN
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "network.mnn"
            command = [sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", str(path)]
            command += ["--MNNModel", str(made), "--bizCode", "ondevice"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not made.exists():
                raise BadInput(f"MNN cannot convert {path}: {(done.stdout + done.stderr)[-500:]}")
            self._interpreter = MNN.Interpreter(str(made))
        self._session = self._interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high"}
        )
        self._input = self._interpreter.getSessionInput(self._session)
        self._shape = tuple(shape)
        self._interpreter.resizeTensor(self._input, self._shape)
        self._interpreter.resizeSession(self._session)

    def run(self, x: Floats) -> Floats:
        """The output. x: float32 of the shape that it was opened for."""
        kind, layout = self._module.Halide_Type_Float, self._module.Tensor_DimensionType_Caffe
        self._input.copyFrom(self._module.Tensor(self._shape, kind, np.ascontiguousarray(x), layout))
        self._interpreter.runSession(self._session)
        output = self._interpreter.getSessionOutput(self._session)
        shape = output.getShape()
        held = self._module.Tensor(shape, kind, np.zeros(shape, np.float32), layout)
        output.copyToHostTensor(held)
        return np.array(held.getNumpyData(), np.float32).reshape(shape)
