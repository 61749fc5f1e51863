"""An embedding table that stays on storage: the rows that are asked for are read, the latest are kept.

Knows rows, panels and storage. Knows nothing of tokens or of what the rows mean.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.artifact import Place
from ondevice.devices.storage import Storage
from ondevice.kernels import Kernels, Matrix
from ondevice.runtime.io import ALIGNED, huge_pages, room
from ondevice.runtime.table import Rows
from ondevice.runtime.weights.parts import panel_of

Floats = npt.NDArray[np.float32]
_TOGETHER = 32  # rows that are read and summed at a time
_KEPT = 64  # panels


class PanelTable:
    """A `Table` of one matrix whose panels (rows that lie together: 16 in tiles) are read when they are needed.

    format, place: of the whole matrix. nbytes: of memory that it takes.
    """

    def __init__(self, format: Mapping[str, Any], place: Place, storage: Storage) -> None:
        self._format, self._place, self._storage = format, place, storage
        self._panel, self._panel_bytes = panel_of(format)
        size = room(ALIGNED - 1, self._panel_bytes)
        self._rooms = huge_pages(_TOGETHER * size).reshape(_TOGETHER, size)
        self.nbytes = self.nbytes_of(format)
        self._kept: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    @staticmethod
    def nbytes_of(format: Mapping[str, Any]) -> int:
        """What such a table will take: rooms to read into, in whole huge pages, and the panels that are kept."""
        panel = panel_of(format)[1]
        return (2 << 20) + _TOGETHER * room(ALIGNED - 1, panel) + (_KEPT + 2 * _TOGETHER) * panel

    @property
    def rows(self) -> int:
        form = self._format
        return int(form["rows"] if form["kind"] == "tiles" else form["shape"][0])

    @property
    def columns(self) -> int:
        form = self._format
        return int(form["columns"] if form["kind"] == "tiles" else form["shape"][1])

    def embed(self, kernels: Kernels, ids: Rows) -> Floats:
        """The rows of some tokens, (tokens, columns)."""
        out = np.empty((len(ids), self.columns), np.float32)
        for start in range(0, len(ids), _TOGETHER):
            part = ids[start : start + _TOGETHER]
            panels, which = np.unique(part // self._panel, return_inverse=True)
            matrix = self._matrix(self._stored(panels.tolist()), len(panels) * self._panel)
            rows = (which * self._panel + part % self._panel).astype(np.int32)
            kernels.embed([matrix], rows[None], out=out[start : start + _TOGETHER])
        return out

    def _matrix(self, stored: npt.NDArray[np.uint8], rows: int) -> Matrix:
        form = self._format
        if form["kind"] == "tiles":
            return Matrix.tiles(stored, rows, form["columns"], form["bits"], form["group_size"])
        return Matrix.dense(stored.view(form["dtype"]).reshape(rows, -1))

    def _stored(self, panels: list[int]) -> npt.NDArray[np.uint8]:
        """The bytes of panels, one after another."""
        missing = [panel for panel in panels if panel not in self._kept]
        tickets = []
        for panel, memory in zip(missing, self._rooms):
            place = replace(
                self._place, offset=self._place.offset + panel * self._panel_bytes, nbytes=self._panel_bytes
            )
            tickets.append(
                (place, memory, self._storage.read(place.path, place.offset, place.nbytes, memory))
            )
        for _, _, ticket in tickets:
            ticket.wait()
        for panel, (place, memory, _) in zip(missing, tickets):
            self._kept[panel] = memory[place.offset % ALIGNED :][: place.nbytes].copy()
        for panel in panels:
            self._kept.move_to_end(panel)
        stored = np.concatenate([self._kept[panel] for panel in panels])
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return stored
