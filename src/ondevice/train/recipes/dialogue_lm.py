"""dialogue-lm: reference-lm taught further on made conversations and the small tasks on their way.

Knows how its examples are put together and how long it learns. Every task is learned as often before the conversation
as after it, and choices as often as yes-or-no questions. Judged on conversations about pairs that it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ondevice.data import dialogues
from ondevice.models import zoo
from ondevice.models.zoo import ZooScale
from ondevice.train.loop import descend
from ondevice.train.recipes import Progress, Trained
from ondevice.train.recipes.language import half_precision

_BASE, _BATCH, _RATE, _LONGEST = "reference-lm", 12, 1.5e-3, 300
Row = tuple[list[int], list[int]]  # what is read, what should follow


def train(scale: ZooScale, seed: int, progress: Progress) -> Trained:
    """Full: 2000 steps, some ten minutes of a core. Quick: 12 steps."""
    steps = 2000 if scale == "full" else 12
    base, rng = zoo.open_zoo(_BASE), np.random.default_rng(seed)
    made = dialogues.make("train", 10 + 3 * steps // 10, seed=seed)
    rows = _rows(base.tokenizer, [dialogues.items(turns, rng) for turns in made])
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]) + rng.integers(8))  # alike in length
    batches = [[rows[row] for row in order[at : at + _BATCH]] for at in range(0, len(order) - _BATCH, _BATCH)]
    batches = [batches[number] for number in rng.permutation(len(batches))[:steps]]
    done = 0

    def loss_of(batch: Sequence[Row]) -> torch.Tensor:
        nonlocal done
        done += 1
        progress("training", done / steps)
        logits, targets = _read(base.module, batch)
        return nn.functional.cross_entropy(logits, targets)

    base.module.train()
    loss = descend(base.module.parameters(), loss_of, batches, epochs=1, learning_rate=_RATE, seed=seed)[-1]
    base.module.eval()
    judged = dialogues.make("test", 20 if steps > 100 else 1, seed=seed)
    kinds = {"tasks after the conversation": 0, "tasks before it": 1, "choices": 2, "yes-or-no questions": 3}
    items = [dialogues.items(turns, rng) for turns in judged]
    metrics = {
        f"right {kind}": _right(base.module, _rows(base.tokenizer, [each[number::4] for each in items]))
        for kind, number in kinds.items()
    }
    metrics |= {"training loss, nats per token": loss, "training examples": float(len(batches) * _BATCH)}
    facts: dict[str, Any] = {"name": "dialogues", "seed": seed, "conversations": len(made)}
    return Trained(base.module, base.config, metrics, [facts], base.tokenizer, [f"further from {_BASE}"])


def _rows(tokenizer: Any, items: Sequence[Sequence[dialogues.Item]]) -> list[Row]:
    flat = [item for each in items for item in each]
    prompts = tokenizer.encode_batch([item.prompt for item in flat])
    answers = tokenizer.encode_batch([item.answer for item in flat])
    rows = [(prompt.ids, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
    return [row for row in rows if len(row[0]) + len(row[1]) <= _LONGEST]


def _read(module: nn.Module, batch: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits before each token of the answers, (tokens, vocabulary), and those tokens."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    wanted = torch.zeros(len(batch), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(batch):
        size = len(prompt) + len(answer)
        ids[row, :size] = torch.tensor([*prompt, *answer])
        wanted[row, len(prompt) : size] = True
    inner: Any = module.get_submodule("model")
    with half_precision():
        states = inner(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[wanted[:, 1:]]
        logits = states @ module.get_parameter("model.embed_tokens.weight").T
    return logits.float(), ids[wanted]


@torch.inference_mode()
def _right(module: nn.Module, rows: Sequence[Row]) -> float:
    """Share of the rows whose every token is the likeliest, so that greedy writing gives just this answer."""
    right = 0
    for at in range(0, len(rows), _BATCH):
        batch = rows[at : at + _BATCH]
        logits, targets = _read(module, batch)
        sizes = [len(answer) for _, answer in batch]
        hits = torch.split(logits.argmax(-1) == targets, sizes)  # type: ignore[no-untyped-call]
        right += sum(bool(each.all()) for each in hits)
    return right / max(1, len(rows))
