"""What a pass of a decoder reads, in order: stages, and the parts of tensors that each needs in memory.

Knows the names of a decoder's tensors and their stored forms. Knows nothing of memory, of how parts get there, or of
kernels. A part is a tensor as it is stored, or a band of a matrix's rows: rows lie one after another in every form that
kernels read (tiles: 16 of them), so that a band needs no repacking.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ondevice.artifact import Place
from ondevice.numerics.tiles import PANEL, stored_bytes
from ondevice.runtime.projection import Stored, Tensors

TABLE = "model.embed_tokens.weight"
BAND = 8 << 20
_ROLES = (
    (r"self_attn\.[qkv]_proj\.", "joint"),
    (r"self_attn\.o_proj\.", "output"),
    (r"mlp\.(gate|up)_proj\.", "widen"),
    (r"mlp\.down_proj\.", "narrow"),
    (r"(mlp|block_sparse_moe)\.", "feed"),  # experts, with what they share: which are needed shows too late
)


@dataclass(frozen=True)
class Part:
    """A stored tensor, or rows [first, first + rows) of one. format: of the part. tensor: whose part it is."""

    name: str
    tensor: str
    place: Place
    format: Mapping[str, Any]
    first: int = 0

    @property
    def nbytes(self) -> int:
        return self.place.nbytes


@dataclass(frozen=True)
class Stage:
    """Parts that are used together. key: (layer, role), or ("head", number)."""

    key: tuple[int | str, str | int]
    parts: tuple[Part, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def stages_of(tensors: Tensors, layers: int, *, band: int = BAND) -> list[Stage]:
    """The stages of one pass in their order: of each layer, then the bands of the head, of at most so many bytes each.

    Only what is large and lies in a file as kernels read it is a part; the rest (norms, biases, forms that are
    converted) is not and stays in memory. An embedding table is part of a pass only where it is the head too.
    """
    roles: dict[tuple[int | str, str | int], list[Part]] = {
        (layer, role): [] for layer in range(layers) for _, role in _ROLES
    }
    for name in tensors:
        found = re.match(r"model\.layers\.(\d+)\.(.+)", name)
        place = place_of(tensors[name])
        if found and place and int(found[1]) < layers:
            role = next((role for pattern, role in _ROLES if re.match(pattern, found[2])), None)
            if role:
                roles[int(found[1]), role].append(Part(name, name, place, tensors[name].format))
    stages = [Stage(key, tuple(parts)) for key, parts in roles.items()]
    head = head_name(tensors)
    if head and (place := place_of(tensors[head])):
        whole = Part(head, head, place, tensors[head].format)
        stages += [Stage(("head", number), (band,)) for number, band in enumerate(bands_of(whole, band))]
    return stages


def head_name(tensors: Tensors) -> str | None:
    """The matrix that gives the logits, where it is one matrix."""
    if any(name.startswith("lm_head.") for name in tensors):
        return "lm_head.weight" if "lm_head.weight" in tensors and "lm_head.bias" not in tensors else None
    return TABLE if TABLE in tensors else None


def bands_of(part: Part, most: int) -> Iterator[Part]:
    """A matrix as bands of rows of at most so many bytes, or of what is read together where that is more."""
    panel, panel_bytes = panel_of(part.format)
    rows = part.format["rows"] if part.format["kind"] == "tiles" else part.format["shape"][0]
    unit = max(panel_bytes, part.place.unit)  # a multiple of panels
    step = max(1, most // unit) * (unit // panel_bytes) * panel
    if step >= rows:
        yield part
        return
    for first in range(0, rows, step):
        count = min(step, rows - first)
        size = -(-count // panel) * panel_bytes
        if part.format["kind"] == "tiles":
            form = dict(part.format) | {"rows": count}
        else:
            form = dict(part.format) | {"shape": [count, *part.format["shape"][1:]]}
        place = replace(
            part.place, offset=part.place.offset + first // panel * panel_bytes, nbytes=size, sha256=None
        )
        yield Part(f"{part.name}[{first}:{first + count}]", part.tensor, place, form, first)


def panel_of(format: Mapping[str, Any]) -> tuple[int, int]:
    """The fewest rows of a matrix that lie together, and their bytes."""
    if format["kind"] == "tiles":
        return PANEL, stored_bytes(PANEL, format["columns"], format["bits"], format["group_size"])
    return 1, math.prod(format["shape"][1:]) * np.dtype(format["dtype"]).itemsize


def place_of(tensor: Stored) -> Place | None:
    """Where a matrix lies as kernels read it; None for vectors and for what is converted first."""
    place: Place | None = getattr(tensor, "place", None)
    form = tensor.format
    if place is None or place.nbytes == 0:
        return None
    if form["kind"] == "tiles":
        return place
    dense = form["kind"] == "dense" and len(form["shape"]) > 1 and form["dtype"] in ("float32", "float16")
    return place if dense else None
