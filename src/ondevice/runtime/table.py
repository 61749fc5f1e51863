"""Embedding tables as stored: one matrix, or bands of rows at different widths.

Knows which matrix and row hold a given row of the table. The sum over tables is a kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadArtifact
from ondevice.kernels import Kernels, Matrix
from ondevice.runtime.projection import Tensors, read_matrix

Rows = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Table:
    """bands, places: for each row of the table its matrix, uint8 (rows,), and its row there, int32 (rows,);
    both None where there is one matrix."""

    matrices: list[Matrix]
    bands: npt.NDArray[np.uint8] | None = None
    places: Rows | None = None

    @property
    def rows(self) -> int:
        return self.matrices[0].rows if self.bands is None else len(self.bands)

    @property
    def columns(self) -> int:
        return self.matrices[0].columns

    def look_up(self, rows: Rows) -> Rows:
        """The row of each matrix for each token, int32 (matrices, tokens); -1 where a matrix has no part."""
        if self.bands is None or self.places is None:
            return rows[None]
        bands = self.bands[rows]
        return np.where(bands == np.arange(len(self.matrices))[:, None], self.places[rows], -1).astype(
            np.int32
        )

    def embed(self, kernels: Kernels, ids: Rows) -> Floats:
        """The rows of some tokens, (tokens, columns)."""
        return kernels.embed(self.matrices, self.look_up(ids))


def stored(tensors: Tensors, name: str) -> bool:
    """Whether a table of that name is there, in either form."""
    return f"{name}.weight" in tensors or f"{name}.bands" in tensors


def read_table(tensors: Tensors, name: str) -> Table:
    """The table of that name. Raises BadArtifact where bands and matrices do not fit together."""
    if f"{name}.bands" not in tensors:
        return Table([read_matrix(tensors, f"{name}.weight")])
    bands = tensors[f"{name}.bands"].array
    if bands.dtype != np.uint8 or bands.ndim != 1 or not bands.size:
        raise BadArtifact(f"{name}.bands is {bands.dtype} of shape {bands.shape}, not uint8 (rows,)")
    counts = np.bincount(bands)
    matrices = [read_matrix(tensors, f"{name}.band.{number}.weight") for number in range(len(counts))]
    if [matrix.rows for matrix in matrices] != counts.tolist():
        raise BadArtifact(f"{name}: the bands hold {counts.tolist()} rows, their tables others")
    places = np.empty(len(bands), np.int32)
    for number, count in enumerate(counts):
        places[bands == number] = np.arange(count)
    return Table(matrices, np.array(bands), places)
