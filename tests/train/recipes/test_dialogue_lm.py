"""The recipe of dialogue-lm, at its quick scale: a few steps lower the loss on answers that it never saw."""

from __future__ import annotations

from pathlib import Path

import torch

from ondevice.data import dialogues
from ondevice.models import zoo
from ondevice.train.recipes import build


@torch.inference_mode()
def loss_of(model: zoo.ZooModel) -> float:
    """Nats a token of the right answers, by transformers' own loss."""
    losses = []
    for turn in dialogues.make("test", 1, turns=6, seed=5)[0]:
        for task, answer in turn.answers.items():
            prompt, rest = (model.tokenizer.encode(text).ids for text in
                            (dialogues.posed(turn, task, "suffix"), f" {answer}\n"))  # fmt: skip
            labels = torch.tensor([[-100] * len(prompt) + rest])
            losses.append(float(model.module(input_ids=torch.tensor([prompt + rest]), labels=labels).loss))
    return sum(losses) / len(losses)


def test_a_few_steps_teach_something(tmp_path: Path) -> None:
    made = build("dialogue-lm", "quick", out=tmp_path / "made")
    again = zoo.open_zoo("dialogue-lm", tmp_path / "made")
    assert loss_of(again) < 0.8 * loss_of(zoo.open_zoo("reference-lm"))
    assert {name for name in made.record["metrics"] if name.startswith("right ")} == {
        "right tasks after the conversation", "right tasks before it", "right choices", "right yes-or-no questions",
    }  # fmt: skip
