"""A model: module, tokenizer and task together.

Together, because a technique may drop vocabulary (so the tokenizer changes with the module), and because
calibration and distillation need to know what the model is for.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from ondevice.errors import BadInput
from ondevice.layers.tied import tie
from ondevice.models.tasks import Floats, Task, Window, tokenize, windows

Layer = TypeVar("Layer", bound=nn.Module)
WINDOW = 512  # tokens: how much of a text a language model reads at once, to be calibrated and judged


@dataclass(frozen=True)
class Source:
    """Where a model came from: its name, the exact revision or weights hash, and its licence."""

    name: str
    revision: str = ""
    licence: str = "unknown"


@dataclass(frozen=True)
class Model:
    """module: a torch module in eval mode that takes `input_ids` and `attention_mask` (a transformers model).
    tokenizer: a `tokenizers.Tokenizer`. task: what the model is for.
    config: its Hugging Face configuration as a dictionary. source: provenance.
    """

    module: nn.Module
    tokenizer: Any
    task: Task
    config: dict[str, Any] = field(default_factory=dict)
    source: Source = Source("unnamed")

    def layers(self, kind: type[Layer], matching: str = "*") -> dict[str, Layer]:
        """The submodules of a kind whose name fits a shell pattern, by name."""
        return {
            name: module
            for name, module in self.module.named_modules()
            if isinstance(module, kind) and fnmatch.fnmatchcase(name, matching)
        }

    def replace(
        self, kind: type[Layer], matching: str = "*", *, by: Callable[[str, Layer], nn.Module | None]
    ) -> Model:
        """A model in which each such submodule is `by(name, module)` (None: left as it is).

        Every tensor that is not touched is shared with this model; this model is not edited.
        """
        new = {name: by(name, layer) for name, layer in self.layers(kind, matching).items()}
        return self.with_modules({name: layer for name, layer in new.items() if layer is not None})

    def with_modules(self, new: dict[str, nn.Module]) -> Model:
        """A model in which the named submodules are the given ones; all else is shared, nothing edited."""
        module = share(self.module)
        for name, layer in new.items():
            parent, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(parent), leaf, layer)
        return replace(self, module=tie(module))

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cut to the task's maximum length, without padding; of a language model those of
        all `windows` of the texts."""
        if self.task.kind == "language":
            return [window.ids for window in self.windows(texts)]
        return tokenize(self.tokenizer, texts, self.task.max_length)

    def windows(self, texts: Sequence[str]) -> list[Window]:
        """What a language model reads of these texts, in stretches of at most 512 tokens."""
        if self.task.kind != "language":
            raise BadInput(f"this is a model for {self.task.kind}, which reads whole texts")
        return windows(self.tokenizer, texts, min(WINDOW, self.task.max_length))

    def outputs(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """What the model is for, of padded ids and mask (texts, tokens): embeddings (texts, dimension), class
        logits (texts, labels), or logits of the next token (texts, tokens, vocabulary). Gradients flow through it."""
        if self.task.kind == "language":
            next_token: torch.Tensor = self.module(input_ids=ids, attention_mask=mask, use_cache=False).logits
            return next_token
        result = self.module(input_ids=ids, attention_mask=mask)
        if self.task.kind == "classification":
            logits: torch.Tensor = result.logits
            return logits
        hidden, kept = result.last_hidden_state, mask.unsqueeze(-1).to(torch.bool)
        if self.task.pooling == "cls":
            pooled = hidden[:, 0]
        elif self.task.pooling == "max":
            pooled = hidden.masked_fill(~kept, -torch.inf).amax(dim=1)
        else:
            pooled = (hidden * kept).sum(dim=1) / kept.sum(dim=1)
        return nn.functional.normalize(pooled, dim=-1) if self.task.normalize else pooled

    @torch.inference_mode()
    def predict(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """`outputs` of texts, float32, in their order: what every other way to run the model is held to. A language
        model answers at every token, not for a text: see `outputs`."""
        if self.task.kind == "language":
            raise BadInput("a language model gives no single answer for a text; call outputs(ids, mask)")
        token_ids = self.tokens(texts)
        rows: dict[int, torch.Tensor] = {}
        for indices, ids, mask in batches(token_ids, batch_size, int(self.config.get("pad_token_id") or 0)):
            rows |= dict(zip(indices, self.outputs(ids, mask).float(), strict=True))
        stacked: Floats = torch.stack([rows[index] for index in range(len(rows))]).numpy()
        return stacked


def batches(
    token_ids: Sequence[Sequence[int]], batch_size: int, pad: int = 0
) -> list[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Batches of similar length: (indices into token_ids, padded ids, mask), longest texts first."""
    order = sorted(range(len(token_ids)), key=lambda index: -len(token_ids[index]))
    out = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        longest = max(len(token_ids[index]) for index in chosen)
        ids = torch.full((len(chosen), longest), pad, dtype=torch.long)
        mask = torch.zeros((len(chosen), longest), dtype=torch.long)
        for row, index in enumerate(chosen):
            length = len(token_ids[index])
            ids[row, :length] = torch.tensor(token_ids[index])
            mask[row, :length] = 1
        out.append((chosen, ids, mask))
    return out


def share(module: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors are the very same objects (no memory is copied)."""
    memo: dict[int, Any] = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        memo[id(tensor)] = tensor
    return copy.deepcopy(module, memo)
