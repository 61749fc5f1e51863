"""A module tree as stored tensors, and back.

Knows which stored form becomes which layer. Knows nothing of files, and builds no architecture: the skeleton
is handed in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from ondevice.artifact import StoredTensor
from ondevice.errors import BadArtifact
from ondevice.layers.banded import BandedEmbedding
from ondevice.layers.factorized import LowRankLinear
from ondevice.layers.nested import BitScores, NestedLinear
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear, array, dense
from ondevice.layers.sparse import SparseLinear
from ondevice.layers.tied import tie

_COMPRESSED = (QuantizedLinear, QuantizedEmbedding, SparseLinear, NestedLinear)
# The attributes that repeat a parameter's shape, by kind of module.
_SIZES: dict[type[nn.Module], tuple[str, str]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}


def to_stored(module: nn.Module) -> dict[str, StoredTensor]:
    """Everything that an artifact keeps of a module tree, by the tensor's full name.

    A low-rank layer NAME is stored as its halves NAME.down and NAME.up; buffers that a checkpoint leaves out
    are left out here too.
    """
    stored = {name: dense(values) for name, values in _plain_tensors(module)}
    for name, part in module.named_modules():
        if isinstance(part, _COMPRESSED):
            stored |= {_join(name, leaf): tensor for leaf, tensor in part.stored().items()}
    return stored


def stored_bytes(module: nn.Module) -> int:
    """Bytes of all that `to_stored` gives."""
    return sum(tensor.array.nbytes for tensor in to_stored(module).values())


def from_stored(skeleton: nn.Module, stored: Mapping[str, StoredTensor]) -> nn.Module:
    """The skeleton with the stored tensors, whose shapes are the truth: compressed layers take the place of
    plain ones and pruned ones get their new sizes. The skeleton is edited and returned; it may be on the meta
    device. Raises BadArtifact for tensors that are missing or have no place.
    """
    owners: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for full, tensor in stored.items():
        name, _, leaf = full.rpartition(".")
        owners[name][leaf] = tensor
    for name, own in owners.items():
        parent, _, leaf = name.rpartition(".")
        if leaf == "down" and isinstance(_find(skeleton, parent), nn.Linear):
            if f"{parent}.up" not in owners or "weight" not in owners[f"{parent}.up"]:
                raise BadArtifact(f"{parent}.up.weight is missing")
            _set(skeleton, parent, LowRankLinear(_linear(own), _linear(owners[f"{parent}.up"])))
        if leaf.isdigit() and parent.endswith(".band"):
            _set_banded(skeleton, parent.removesuffix(".band"), owners)
    for name, own in owners.items():
        part = _find(skeleton, name)
        if part is None and name.endswith(".bit_router") and "weight" in own:  # no architecture has one
            _set(skeleton, name, BitScores(array(own["weight"])))
            continue
        if part is None:
            raise BadArtifact(f"{name or 'a tensor'} ({', '.join(own)}) has no place in this architecture")
        _restore(skeleton, name, part, own)
    missing = [name for name, _ in _plain_tensors(skeleton) if name not in stored]
    if missing:
        raise BadArtifact(f"tensors are missing: {', '.join(missing[:8])}")
    return tie(skeleton)


def _plain_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and stored buffers of all layers that are not compressed, by full name."""
    for name, part in module.named_modules():
        if isinstance(part, _COMPRESSED):
            continue
        for leaf, values in part.named_parameters(recurse=False):
            yield _join(name, leaf), values
        for leaf, values in part.named_buffers(recurse=False):
            if leaf not in part._non_persistent_buffers_set:
                yield _join(name, leaf), values


def _join(name: str, leaf: str) -> str:
    return f"{name}.{leaf}" if name else leaf


def _restore(skeleton: nn.Module, name: str, part: nn.Module, own: dict[str, StoredTensor]) -> None:
    kinds = {leaf: tensor.format.get("kind") for leaf, tensor in own.items()}
    if isinstance(part, _COMPRESSED):  # a half of a low-rank layer, restored with it
        return
    if kinds.get("weight") in ("tiles", "sparse"):
        if isinstance(part, nn.Embedding) and kinds["weight"] == "tiles":
            _set(skeleton, name, QuantizedEmbedding.from_stored(own))
            return
        if isinstance(part, nn.Linear):
            _set(skeleton, name, _linear(own))
            return
    known = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
    for leaf, tensor in own.items():
        if leaf not in known or kinds[leaf] != "dense":
            raise BadArtifact(f"{name}.{leaf} of kind {kinds[leaf]} has no place in a {type(part).__name__}")
        values = array(tensor)
        if values.ndim != known[leaf].ndim:
            raise BadArtifact(
                f"{name}.{leaf} has shape {tuple(values.shape)}, expected {known[leaf].ndim} axes"
            )
        if isinstance(known[leaf], nn.Parameter):
            setattr(part, leaf, nn.Parameter(values, requires_grad=False))
        else:
            setattr(part, leaf, values)
        for kind, sizes in _SIZES.items():
            if isinstance(part, kind) and leaf == "weight":
                for size, attribute in zip(values.shape, sizes, strict=True):
                    setattr(part, attribute, size)


def _set_banded(skeleton: nn.Module, name: str, owners: Mapping[str, Mapping[str, StoredTensor]]) -> None:
    """A table in bands, set when the first of its bands is met."""
    if not isinstance(_find(skeleton, name), nn.Embedding):
        return
    if "bands" not in owners.get(name, {}):
        raise BadArtifact(f"{name}.bands is missing")
    tables: list[QuantizedEmbedding] = []
    while (own := owners.get(f"{name}.band.{len(tables)}")) is not None:
        if own["weight"].format.get("kind") != "tiles":
            raise BadArtifact(f"{name}.band.{len(tables)}.weight is not in tiles")
        tables.append(QuantizedEmbedding.from_stored(own))
    _set(skeleton, name, BandedEmbedding(array(owners[name]["bands"]), tables))


def _linear(own: Mapping[str, StoredTensor]) -> nn.Module:
    """The linear layer that a weight, a bias and an input scale describe."""
    kind = own["weight"].format.get("kind")
    if kind == "tiles" and own["weight"].format.get("planes"):
        return NestedLinear.from_stored(own)
    if kind == "tiles":
        return QuantizedLinear.from_stored(own)
    if kind == "sparse":
        return SparseLinear.from_stored(own)
    weight = array(own["weight"])
    if weight.ndim != 2:
        raise BadArtifact(f"a linear layer's weight has two axes, not shape {tuple(weight.shape)}")
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias="bias" in own, device="meta")
    for leaf, tensor in own.items():
        setattr(layer, leaf, nn.Parameter(array(tensor), requires_grad=False))
    return layer


def _find(module: nn.Module, name: str) -> nn.Module | None:
    try:
        return module.get_submodule(name)
    except AttributeError:
        return None


def _set(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part.eval())
