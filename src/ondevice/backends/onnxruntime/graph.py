"""An encoder of the BERT family as an ONNX graph whose quantised weights stay quantised.

Knows stored tensors, the architecture and ONNX. Knows nothing of sessions, files or torch; how one linear layer
or table becomes nodes is `weights.py`. Any runtime of opset 21 with ONNX Runtime's `com.microsoft` operators runs
the result.
Sources: Devlin et al. 2018 (BERT), Liu et al. 2019 (RoBERTa), Conneau et al. 2019 (XLM-RoBERTa).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ondevice.artifact import StoredTensor
from ondevice.backends.onnxruntime.weights import Nodes, embed, linear, outputs_of, stored
from ondevice.errors import BadArtifact, BadInput, UnsupportedModel
from ondevice.models.tasks import Task

OPSET = 21
_IR_VERSION = 10  # the one that came with opset 21: older runtimes refuse newer ones
_LARGEST = 2_000_000_000  # bytes; protobuf holds 2 GiB
_MASKED = np.float32(-1e9)  # added to the score of padding: finite, so that no row gives NaN
_FAMILIES = ("bert", "roberta", "xlm-roberta")
_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "gelu": ("Gelu", {}),
    "gelu_python": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}


def encoder_graph(
    tensors: Mapping[str, StoredTensor], config: Mapping[str, Any], task: Task
) -> onnx.ModelProto:
    """The graph of an encoder.

    tensors: by their Hugging Face names; their shapes are the truth (pruning changes them).
    Inputs: input_ids, attention_mask (1 for tokens, 0 for padding), int64 (batch, tokens), both dynamic.
    Output: last_hidden_state, float32 (batch, tokens, width), or logits, float32 (batch, labels).
    Raises UnsupportedModel for another architecture, BadArtifact where tensors are missing or do not fit, BadInput
    for weights that one ONNX file cannot hold.
    """
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _LARGEST:
        raise BadInput(f"{size} bytes of weights do not fit one ONNX file (2 GB); quantise the model first")
    encoder = _Encoder(tensors, config)
    try:
        states, output = encoder.states(), "last_hidden_state"
        shape: list[int | str] = ["batch", "tokens", encoder.width]
        if task.kind == "classification":
            states, labels = encoder.head(states)
            output, shape = "logits", ["batch", labels]
    except (KeyError, TypeError) as error:
        raise BadArtifact(f"the artifact is not a whole model: {error!r}") from error
    nodes = encoder.nodes
    nodes.add("Identity", states, out=output)
    ids, mask = (
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    )
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes.nodes, "encoder", [ids, mask], [result], nodes.constants)
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, producer_name="ondevice")
    model.ir_version = _IR_VERSION
    return model


class _Encoder:
    def __init__(self, tensors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> None:
        family, activation = config.get("model_type"), config.get("hidden_act", "gelu")
        if family not in _FAMILIES:
            raise UnsupportedModel(f"ONNX export reads {', '.join(_FAMILIES)}, not {family!r}")
        if config.get("position_embedding_type", "absolute") != "absolute" or config.get("is_decoder"):
            raise UnsupportedModel("ONNX export reads encoders with absolute positions only")
        if activation not in _ACTIVATIONS:
            raise UnsupportedModel(f"hidden_act {activation!r} is not one of {', '.join(_ACTIVATIONS)}")
        self.tensors, self.nodes = tensors, Nodes()
        self.activation, self.settings = _ACTIVATIONS[activation]
        self.padding = int(config.get("pad_token_id") or 0) if family != "bert" else None
        self.epsilon = float(config.get("layer_norm_eps", 1e-12))
        self.width = int(config["hidden_size"])
        self.head_size = self.width // int(config["num_attention_heads"])
        for prefix in ("", "bert.", "roberta."):
            if stored(tensors, f"{prefix}embeddings.word_embeddings"):
                self.prefix = prefix
                break
        else:
            raise BadArtifact("the table embeddings.word_embeddings is missing; the artifact is not whole")

    def states(self) -> str:
        """Hidden states after the last layer, (batch, tokens, width)."""
        pattern = re.compile(re.escape(self.prefix) + r"encoder\.layer\.(\d+)\.")
        numbers = sorted({int(found[1]) for name in self.tensors if (found := pattern.match(name))})
        added = self._mask()
        states = self._embeddings()
        for number in numbers:
            states = self._layer(f"{self.prefix}encoder.layer.{number}", states, added)
        return states

    def head(self, states: str) -> tuple[str, int]:
        """(class logits (batch, labels), how many labels)."""
        nodes = self.nodes
        first = nodes.add("Gather", states, nodes.constant("first", np.int64(0)), axis=1)
        for dense, classifier in (
            ("classifier.dense", "classifier.out_proj"),  # RoBERTa
            (f"{self.prefix}pooler.dense", "classifier"),  # BERT
        ):
            if outputs_of(self.tensors, dense) and outputs_of(self.tensors, classifier):
                pooled = nodes.add("Tanh", linear(nodes, self.tensors, dense, first))
                return linear(nodes, self.tensors, classifier, pooled), outputs_of(self.tensors, classifier)
        raise BadArtifact("the task is classification, but the artifact has no classification head")

    def _mask(self) -> str:
        """What is added to the scores, (batch, 1, 1, tokens)."""
        nodes = self.nodes
        real = nodes.add("Cast", "attention_mask", to=TensorProto.BOOL)
        zero, masked = nodes.constant("kept", np.float32(0)), nodes.constant("masked", _MASKED)
        added = nodes.add("Where", real, zero, masked)
        return nodes.add("Unsqueeze", added, nodes.constant("mask_axes", np.array([1, 2])))

    def _embeddings(self) -> str:
        nodes, prefix = self.nodes, f"{self.prefix}embeddings."
        states = embed(nodes, self.tensors, f"{prefix}word_embeddings", "input_ids")
        at = embed(nodes, self.tensors, f"{prefix}position_embeddings", self._positions())
        states = nodes.add("Add", states, at)
        if stored(self.tensors, f"{prefix}token_type_embeddings"):  # one text: type 0 throughout
            zero = nodes.constant("type", np.int64(0))
            kind = embed(nodes, self.tensors, f"{prefix}token_type_embeddings", zero)
            states = nodes.add("Add", states, kind)
        return self._norm(f"{prefix}LayerNorm", states)

    def _positions(self) -> str:
        """The row of the position table for each token: (tokens,), or (batch, tokens) for RoBERTa."""
        nodes = self.nodes
        if self.padding is None:
            length = nodes.add("Gather", nodes.add("Shape", "input_ids"), nodes.constant("one", np.int64(1)))
            start, step = nodes.constant("zero", np.int64(0)), nodes.constant("one", np.int64(1))
            return nodes.add("Range", start, length, step)
        # as fairseq counts: padding stands at the padding index, tokens from the next one on
        padding = nodes.constant("padding", np.int64(self.padding))
        padded = nodes.add("Equal", "input_ids", padding)
        token = nodes.add("Cast", nodes.add("Not", padded), to=TensorProto.INT64)
        count = nodes.add("CumSum", token, nodes.constant("one", np.int64(1)))
        return nodes.add("Add", nodes.add("Mul", count, token), padding)

    def _layer(self, name: str, states: str, added: str) -> str:
        """Self-attention and feed-forward, each added to its input and normalised afterwards."""
        nodes, tensors = self.nodes, self.tensors
        context = self._attention(f"{name}.attention.self", states, added)
        update = linear(nodes, tensors, f"{name}.attention.output.dense", context)
        states = self._norm(f"{name}.attention.output.LayerNorm", nodes.add("Add", update, states))
        wide: str | None = None
        if outputs_of(tensors, f"{name}.intermediate.dense"):
            wide = linear(nodes, tensors, f"{name}.intermediate.dense", states)
            wide = nodes.add(self.activation, wide, **self.settings)
        update = linear(nodes, tensors, f"{name}.output.dense", wide)
        return self._norm(f"{name}.output.LayerNorm", nodes.add("Add", update, states))

    def _attention(self, name: str, states: str, added: str) -> str | None:
        """The heads' results side by side, (batch, tokens, heads * head_size); None where no head is left."""
        nodes = self.nodes
        sizes = {outputs_of(self.tensors, f"{name}.{part}") for part in ("query", "key", "value")}
        size = sizes.pop()
        if sizes or size % self.head_size:
            raise BadArtifact(f"{name}: query, key and value do not have the same whole number of heads")
        if not size:
            return None
        heads = size // self.head_size
        split = nodes.constant(f"split_{heads}", np.array([0, 0, heads, self.head_size]))

        def part(which: str, order: list[int]) -> str:
            flat = linear(nodes, self.tensors, f"{name}.{which}", states)
            return nodes.add("Transpose", nodes.add("Reshape", flat, split), perm=order)

        query, value = part("query", [0, 2, 1, 3]), part("value", [0, 2, 1, 3])
        scale = nodes.constant("scale", np.float32(1 / math.sqrt(self.head_size)))
        scores = nodes.add("Mul", nodes.add("MatMul", query, part("key", [0, 2, 3, 1])), scale)
        weights = nodes.add("Softmax", nodes.add("Add", scores, added), axis=-1)
        mixed = nodes.add("Transpose", nodes.add("MatMul", weights, value), perm=[0, 2, 1, 3])
        return nodes.add("Reshape", mixed, nodes.constant(f"join_{size}", np.array([0, 0, size])))

    def _norm(self, name: str, states: str) -> str:
        scale, offset = (
            self.nodes.constant(
                f"{name}.{leaf}", np.asarray(self.tensors[f"{name}.{leaf}"].array, np.float32)
            )
            for leaf in ("weight", "bias")
        )
        return self.nodes.add("LayerNormalization", states, scale, offset, axis=-1, epsilon=self.epsilon)
