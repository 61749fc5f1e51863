"""run, for convolutional networks: arrays in files through an ONNX network.

Composes sessions and NumPy's own files. Needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput

Floats = npt.NDArray[np.float32]


def run_network(
    path: str | Path, files: Sequence[str | Path], *, threads: int | None = None
) -> list[dict[str, Floats]]:
    """Outputs by name for each file, .npy of numbers with the shape of the network's input.

    A size that the network leaves open is prepared for when it comes. Raises BadInput for no files, for files that are
    no arrays of numbers, and for shapes that the network does not take.
    """
    from ondevice.backends.network import open_network

    if not files:
        raise BadInput("name arrays to run: ondevice run net.onnx picture.npy")
    arrays = []
    for file in files:
        try:
            values = np.load(file, allow_pickle=False)
            arrays.append(np.ascontiguousarray(values, np.float32))
        except (OSError, EOFError, ValueError, TypeError) as problem:
            raise BadInput(f"{file} is not an .npy file of numbers: {problem}") from problem
    with open_network(path, shapes=arrays[0].shape, threads=threads) as session:
        return [session.run(values) for values in arrays]
