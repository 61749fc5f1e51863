"""How a Hugging Face checkpoint names the tensors of `encoder.Network`, family by family.

Knows names and shapes. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ondevice.backends.mlx.encoder import Network
from ondevice.errors import BadInput

_ENCODER = {
    "embeddings.word_embeddings": "word",
    "embeddings.position_embeddings": "position",
    "embeddings.token_type_embeddings": "type",
    "embeddings.LayerNorm": "norm",
}
_LAYER = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm",
}
_BERT_HEADS = {
    "Model": {},
    "ForSequenceClassification": {"pooler.dense": "pooler", "classifier": "classifier"},
    "ForTokenClassification": {"classifier": "classifier"},
    "ForQuestionAnswering": {"qa_outputs": "classifier"},
    "ForMaskedLM": {
        "cls.predictions.transform.dense": "transform",
        "cls.predictions.transform.LayerNorm": "transform_norm",
        "cls.predictions": "decoder",
        "cls.predictions.decoder": "decoder",
    },
}
_ROBERTA_HEADS = {
    "Model": {},
    # Its classifier holds what BERT calls the pooler.
    "ForSequenceClassification": {"classifier.dense": "pooler", "classifier.out_proj": "classifier"},
    "ForTokenClassification": {"classifier": "classifier"},
    "ForQuestionAnswering": {"qa_outputs": "classifier"},
    "ForMaskedLM": {
        "lm_head.dense": "transform",
        "lm_head.layer_norm": "transform_norm",
        "lm_head": "decoder",
        "lm_head.decoder": "decoder",
    },
}
# family -> (prefix of the encoder's names beside a head, names of each head)
_FAMILIES: dict[str, tuple[str, dict[str, dict[str, str]]]] = {
    "bert": ("bert.", _BERT_HEADS),
    "roberta": ("roberta.", _ROBERTA_HEADS),
    "xlm-roberta": ("roberta.", _ROBERTA_HEADS),
}
# What may lie unused in a checkpoint: buffers, BERT's pooler and next-sentence head, and, where hidden states
# are asked for, any pretraining head.
_BUFFERS = ("position_ids", "token_type_ids")
_UNUSED = ("pooler.", "cls.seq_relationship.")
_PRETRAINING = ("cls.", "lm_head.")


def names(network: Network) -> dict[str, str]:
    """{name in a checkpoint without its prefix: name in this network}; a tensor may have two names."""
    family, layers = network.arguments.family, network.arguments.layers
    modules = _ENCODER | _FAMILIES[family][1][network.head]
    for index in range(layers):
        modules |= {
            f"encoder.layer.{index}.{theirs}": f"layers.{index}.{ours}" for theirs, ours in _LAYER.items()
        }
    own = dict(tree_flatten(network.parameters()))
    return {
        f"{theirs}.{leaf}": f"{ours}.{leaf}"
        for theirs, ours in modules.items()
        for leaf in ("weight", "bias")
        if f"{ours}.{leaf}" in own
    }


def fill(network: Network, tensors: Iterable[tuple[str, Any]]) -> Network:
    """Give a network the tensors of a checkpoint, in float32, one after the other.

    tensors: (Hugging Face name, MLX or NumPy array). Raises BadInput that lists the tensors that are missing,
    have no place, have another shape, or hold NaN.
    """
    prefix, table = _FAMILIES[network.arguments.family][0], names(network)
    own: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    unused = _UNUSED + (_PRETRAINING if network.head == "Model" else ())
    given: dict[str, mx.array] = {}
    extra, shapes, wild = list[str](), list[str](), list[str]()
    for stored, tensor in tensors:
        bare = stored.removeprefix(prefix)
        bare = bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if bare not in table:
            copy = network.head == "ForMaskedLM" and bare.endswith(".decoder.weight")  # of the embeddings
            if not (copy or bare.startswith(unused) or bare.endswith(_BUFFERS)):
                extra.append(stored)
            continue
        value = (mx.array(tensor) if isinstance(tensor, np.ndarray) else tensor).astype(mx.float32)
        if value.shape != own[table[bare]].shape:
            shapes.append(f"{stored} is {value.shape}, expected {own[table[bare]].shape}")
        elif not mx.all(mx.isfinite(value)).item():
            wild.append(stored)
        given[table[bare]] = value
    missing = {ours: theirs for theirs, ours in reversed(table.items()) if ours not in given}
    for problem, found in (
        ("tensors are missing", list(missing.values())),
        ("tensors have no place in this architecture", extra),
        ("tensors have another shape", shapes),
        ("tensors hold NaN or infinity", wild),
    ):
        if found:
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise BadInput(f"{problem}: {', '.join(sorted(found)[:8])}{more}")
    network.load_weights(list(given.items()))
    mx.eval(network.parameters())  # now, while the files are as they were checked
    network.eval()
    return network
