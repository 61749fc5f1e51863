"""A session on a network: prepared for a size of input, and prepared again where that changes.

Knows files, threads and backends. Everything else is decided in `runtime.preinfer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.backends.native import processors
from ondevice.backends.network.fallback import OnnxRuntime
from ondevice.backends.network.reader import OnnxFile
from ondevice.backends.session import Closing
from ondevice.errors import BadInput, MissingExtra
from ondevice.runtime.preinfer.constants import rates_here
from ondevice.runtime.preinfer.prepare import Chooser, Prepared
from ondevice.runtime.preinfer.schemes import Selector

Floats = npt.NDArray[np.float32]


class NetworkSession(Closing):
    """A network that is ready to run. Close it, or use it in a `with` block."""

    backend = "native"

    def __init__(
        self, file: OnnxFile, chooser: Chooser, threads: int, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._file, self._chooser, self.threads = file, chooser, threads
        try:
            self._fallback: OnnxRuntime | None = OnnxRuntime(file, threads)
        except MissingExtra:
            self._fallback = None
        self.prepared: Prepared | None = None
        self.prepare(shapes)

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Prepared:
        """Decide everything for inputs of these sizes: schemes, backends, memory. Weights are packed here."""
        graph = self._file.graph(shapes)
        self.prepared = Prepared(graph, self._chooser, threads=self.threads, fallback=self._fallback)
        return self.prepared

    def run(self, inputs: Mapping[str, Floats] | Floats) -> dict[str, Floats]:
        """Outputs by name, float32. inputs: by name, or the only one.

        Where a size differs from what was prepared, and the file leaves it open, the network is prepared again first.
        Raises BadInput for a size that the file does not take, another type, and a closed session.
        """
        if self.prepared is None:
            raise BadInput("this session is closed; open a new one")
        if not isinstance(inputs, Mapping):
            (name, *more) = self._file.inputs
            if more:
                raise BadInput(
                    f"the network has the inputs {', '.join(self._file.inputs)}; give a dictionary"
                )
            inputs = {name: inputs}
        given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
        shapes = {name: value.shape for name, value in given.items()}
        if any(self.prepared.graph.shapes.get(name) != shape for name, shape in shapes.items()):
            self.prepare(shapes)
        return self.prepared.run(given)

    @property
    def elsewhere(self) -> int:
        """How many operators the fallback runs."""
        rows = self.prepared.rows if self.prepared is not None else []
        return sum(row.backend != "native" for row in rows)

    def close(self) -> None:
        self.prepared = None


def open_network(
    path: str | Path,
    *,
    shapes: Mapping[str, tuple[int, ...]] | tuple[int, ...] | None = None,
    threads: int | None = None,
    chooser: Chooser | None = None,
) -> NetworkSession:
    """A session on an ONNX file.

    shapes: of the inputs by name, or of the only one; needed for sizes that the file leaves open. threads: all
    processors unless told otherwise. chooser: of schemes; None for a `Selector` with this machine's rates.
    Raises BadInput, UnsupportedModel, and MissingExtra where the package onnx is not installed.
    """
    file, count = OnnxFile(path), threads if threads is not None else processors()
    if count < 1:
        raise BadInput(f"threads must be at least 1, not {count}")
    given = (
        shapes if isinstance(shapes, Mapping) else {} if shapes is None else {next(iter(file.inputs)): shapes}
    )
    return NetworkSession(file, chooser or Selector(rates_here(), count), count, given)
