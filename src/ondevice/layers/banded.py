"""A table of embeddings whose rows are kept at different widths: frequent tokens finely, rare ones coarsely.

Knows which band a row is in. Knows nothing of how the bands were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ondevice.errors import BadArtifact
from ondevice.layers.quantized import QuantizedEmbedding


class BandedEmbedding(nn.Module):
    """bands: uint8 (rows,), the band of each row; a band's table holds its rows in their order.

    Stored as NAME.bands and, for each band i, the tiles NAME.band.i.weight.
    """

    bands: torch.Tensor
    places: torch.Tensor

    def __init__(self, bands: torch.Tensor, tables: Sequence[QuantizedEmbedding]) -> None:
        super().__init__()
        counts = torch.bincount(bands.long(), minlength=len(tables))
        if counts.tolist() != [table.num_embeddings for table in tables]:
            raise BadArtifact(
                f"the bands hold {counts.tolist()} rows, their tables "
                f"{[table.num_embeddings for table in tables]}"
            )
        self.num_embeddings, self.embedding_dim = len(bands), tables[0].embedding_dim
        self.padding_idx: int | None = None
        self.register_buffer("bands", bands)
        self.band = nn.ModuleList(tables)
        places = torch.zeros(len(bands), dtype=torch.long)
        for number, count in enumerate(counts.tolist()):
            places[bands == number] = torch.arange(count)
        self.register_buffer("places", places, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The table, float32 (num_embeddings, embedding_dim)."""
        return self.forward(torch.arange(self.num_embeddings))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        bands, places = self.bands[ids], self.places[ids]
        out = torch.empty(*ids.shape, self.embedding_dim)
        for number, table in enumerate(self.band):
            here = bands == number
            out[here] = table(places[here])
        return out

    def macs_per_row(self) -> int:
        """Looking up multiplies nothing."""
        return 0
