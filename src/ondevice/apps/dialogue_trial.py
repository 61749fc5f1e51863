"""Conversations whose sub-tasks have known answers, gone through with side paths and with what they are set beside.

Knows side paths, and made conversations (`data.dialogues`). Knows nothing of bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ondevice.apps.dialogue import BinaryTree, MultiChoice, Side, Subtask, SubtaskFlow
from ondevice.data import dialogues
from ondevice.kernels import PAGE
from ondevice.runtime.decoder import Decoder

LIMIT = 40  # tokens of an answer
TASKS = [Subtask(name, dialogues.instruction(name), limit=LIMIT) for name in dialogues.TASKS]


@dataclass
class Trial:
    """What was found, a value a sub-task.

    side, suffix, prefix: whether its answer was right on a side path, where conversation and instruction are read anew,
    and where the instruction stands before the conversation. differ: side paths whose answer is not the one read anew.
    tree, choice: whether questions and one question found the task that was needed, in two orders of options.
    tree_moved, choice_moved: whether the two orders gave two choices. read: tokens that the decoder read for sub-tasks.
    needed: those of instructions and answers. pages: of the cache that a side path took beyond those of its own tokens.
    apart: largest difference of the logits at the end of a conversation to one without sub-tasks. strays: conversations
    that go on differently."""

    side: list[bool] = field(default_factory=list)
    suffix: list[bool] = field(default_factory=list)
    prefix: list[bool] = field(default_factory=list)
    tree: list[bool] = field(default_factory=list)
    choice: list[bool] = field(default_factory=list)
    tree_moved: list[bool] = field(default_factory=list)
    choice_moved: list[bool] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    differ: int = 0
    read: int = 0
    needed: int = 0
    apart: float = 0.0
    strays: int = 0


def run_trial(
    decoder: Decoder, tokenizer: Any, conversations: Sequence[Sequence[dialogues.Turn]], seed: int = 0
) -> Trial:
    """Go through conversations. At every turn the sub-task that it calls for is done, or one drawn by `seed`."""
    trial, rng = Trial(), np.random.default_rng(seed)
    for turns in conversations:
        flow, plain = (SubtaskFlow(decoder, tokenizer, TASKS) for _ in range(2))
        before = ""
        for turn in turns:
            for each in (flow, plain):
                each.say(turn.history[len(before) :])
            before = turn.history
            task = turn.need if turn.need in turn.answers else str(rng.choice(list(turn.answers)))
            _do(trial, flow, turn, task)
            _choose(trial, flow, turn, rng)
        ends = [each.logits(["\n>"]) for each in (flow, plain)]
        trial.apart = max(trial.apart, float(np.abs(ends[0] - ends[1]).max()))
        for each in (flow, plain):
            each.say("\n<")
        trial.strays += flow.write(8) != plain.write(8)
        for each in (flow, plain):
            each.free()
    return trial


def _do(trial: Trial, flow: SubtaskFlow, turn: dialogues.Turn, task: str) -> None:
    decoder, right = flow.decoder, turn.answers[task]

    def count(layer: int, states: Any) -> None:
        trial.read += len(states) if layer == 0 else 0

    decoder.before_layer = count
    side: Side = flow.subtask(task)
    decoder.before_layer = None
    trial.needed += side.read + len(side.tokens) - 1  # the last is not read
    took = side.cache_bytes // decoder.cache.page_bytes
    trial.pages.append(took - -(-(side.read + len(side.tokens)) // PAGE))
    trial.side.append(side.answer.strip() == right)
    suffix = [*flow.tokens, *flow.tokenizer.encode(dialogues.instruction(task)).ids]
    prefix = flow.tokenizer.encode(dialogues.posed(turn, task, "prefix")).ids
    for ids, found in ((suffix, trial.suffix), (prefix, trial.prefix)):
        anew = SubtaskFlow(decoder, flow.tokenizer)
        anew.go_on(ids)
        answer = anew.write(LIMIT)
        anew.free()
        found.append(answer.strip() == right)
        trial.differ += ids is suffix and answer != side.answer


def _choose(trial: Trial, flow: SubtaskFlow, turn: dialogues.Turn, rng: np.random.Generator) -> None:
    multiple = MultiChoice(flow, dialogues.choice, [f" {letter}" for letter in dialogues.LETTERS])
    by_tree, by_one = [], []
    for _ in range(2):
        order = [str(name) for name in rng.permutation([*dialogues.TASKS, dialogues.NONE])]
        questions = {name: dialogues.question(name) for name in order if name != dialogues.NONE}
        tree = BinaryTree(flow, dialogues.question("any"), questions)
        by_tree.append(tree.decide() or dialogues.NONE)
        by_one.append(multiple.decide(order))
    trial.tree += [each == turn.need for each in by_tree]
    trial.choice += [each == turn.need for each in by_one]
    trial.tree_moved.append(by_tree[0] != by_tree[1])
    trial.choice_moved.append(by_one[0] != by_one[1])
