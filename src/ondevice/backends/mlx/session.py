"""Texts in, embeddings or scores out, on MLX.

Knows how checkpoint files and weights get into a network, and how unequal texts share a batch. The arithmetic
is `encoder.py`, the names are `names.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from ondevice.backends.mlx.encoder import HEADS, Arguments, Network
from ondevice.backends.mlx.names import fill
from ondevice.backends.session import Session, Tokens, padded
from ondevice.errors import BadInput, MissingExtra
from ondevice.models.checkpoint import Checkpoint, read_checkpoint
from ondevice.models.tasks import Floats, Task

_BATCH = 32


class MlxSession(Session):
    """A network on MLX with its tokenizer and task."""

    backend = "mlx"

    def __init__(self, network: Network, tokenizer: Any, task: Task) -> None:
        super().__init__(tokenizer, task)
        self.network = network

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, Any], config: Mapping[str, Any], tokenizer: Any, task: Task
    ) -> MlxSession:
        """weights: float32 NumPy arrays under their Hugging Face names. config: config.json."""
        head = "ForSequenceClassification" if task.kind == "classification" else "Model"
        return cls(fill(Network(Arguments.from_config(config), head), weights.items()), tokenizer, task)

    def hidden(self, token_ids: Tokens) -> list[Floats]:
        """The last hidden states of each text, float32 (tokens, width).

        Raises BadInput for a text that is empty, too long, or has ids that the embedding table lacks.
        """
        return run(self.network, token_ids, self.network.encode)

    def logits(self, token_ids: Tokens) -> Floats:
        """The class logits of each text, float32 (texts, labels)."""
        return np.stack(run(self.network, token_ids))

    def __call__(self, texts: Sequence[str]) -> Floats:
        """`classify` for a classifier, `embed` for all else."""
        return self.classify(texts) if self.task.kind == "classification" else self.embed(texts)

    def close(self) -> None:
        """Let go of the weights."""
        if not self.closed:
            del self.network
            mx.clear_cache()
        super().close()


def load(path: str | Path) -> Callable[[Sequence[Any]], Any]:
    """A checkpoint folder as a function of texts, straight from its files: no other copy is written.

    A sentence-transformers or plain encoder gives embeddings (texts, width), a sequence classifier
    probabilities (texts, labels): both are an `MlxSession`. The others give a list of logits: a token
    classifier (tokens, labels); a question answerer, which takes pairs (question, context), (tokens, 2) for
    start and end; a masked language model (tokens, vocabulary).

    Raises UnsupportedModel for other architectures, BadInput for tensors that are missing or too many. The
    two first cut long texts as their checkpoint says; the others raise BadInput for a text that is too long.
    """
    checkpoint = read_checkpoint(Path(path).expanduser())
    network, tokenizer = read_network(checkpoint), checkpoint.tokenizer()
    if network.head in ("Model", "ForSequenceClassification"):
        return MlxSession(network, tokenizer, checkpoint.task())

    def outputs(texts: Sequence[Any]) -> list[Floats]:
        encoded = tokenizer.encode_batch(list(texts))
        parts = (encoded[start : start + _BATCH] for start in range(0, len(encoded), _BATCH))
        return [
            row
            for part in parts
            for row in run(network, [each.ids for each in part], types=[each.type_ids for each in part])
        ]

    return outputs


def run(
    network: Network,
    token_ids: Tokens,
    forward: Callable[..., mx.array] | None = None,
    types: Tokens | None = None,
) -> list[Floats]:
    """What `forward` (the whole network if None) makes of a batch; outputs a token are cut to its tokens.

    token_ids: one list a text, special tokens included. types: which of two texts each token belongs to.
    Raises BadInput for texts that are empty, too long, or hold ids that the embedding table lacks.
    """
    arguments = network.arguments
    for index, tokens in enumerate(token_ids):
        if not 0 < len(tokens) <= arguments.longest:
            raise BadInput(
                f"text {index} has {len(tokens)} tokens; this model takes 1 to {arguments.longest}"
            )
        if not 0 <= min(tokens) <= max(tokens) < arguments.vocabulary:  # MLX would read beyond the table
            raise BadInput(f"text {index} has token ids beyond the model's {arguments.vocabulary}")
    if types is not None and max(map(max, types)) >= arguments.types:
        types = None  # RoBERTa knows one type only
    ids, mask = padded(token_ids, arguments.padding)
    output = (forward or network)(
        mx.array(ids),
        None if mask.all() else mx.array(mask),
        None if types is None else mx.array(padded(types, 0)[0]),
    )
    array = np.array(output, dtype=np.float32)  # evaluates the lazy graph
    if array.ndim == 2:
        return list(array)
    return [array[row, : len(tokens)] for row, tokens in enumerate(token_ids)]


def read_network(checkpoint: Checkpoint) -> Network:
    """The network of a checkpoint with the head that its architecture names, read file by file."""
    head = "Model"
    if not checkpoint.modules:
        head = next((head for head in HEADS[1:] if checkpoint.architecture.endswith(head)), head)
    if head == "Model":
        checkpoint.task()  # refuses what is no plain encoder, and says what is supported
    return fill(Network(Arguments.from_config(checkpoint.config), head), _tensors(checkpoint))


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Any]]:
    for path in checkpoint.weight_files():
        if path.suffix == ".safetensors":
            try:
                tensors = cast(dict[str, mx.array], mx.load(str(path)))  # read when evaluated
            except (RuntimeError, ValueError) as error:
                raise BadInput(f"{path} is not a whole safetensors file: {error}") from error
            yield from tensors.items()
        else:
            try:
                from ondevice.models.load import read_tensors
            except ImportError as error:
                raise MissingExtra("torch", "fit", "to read a .bin checkpoint") from error
            held = read_tensors(path)
            for name in list(held):
                yield name, held.pop(name).float().numpy()  # one tensor at a time is there twice
