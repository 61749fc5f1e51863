"""CIFLEX: small tasks on the way of a conversation, on side paths of the cache that holds it.

Quality and exactness on `dialogue-lm`, which this project taught on made conversations, over pairs that it never saw;
time on random weights of a published shape. A cache of prefixes, which keeps the conversation for whatever is asked
behind it, is shown beside: it saves the same, as long as nothing displaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from ondevice.apps.dialogue import Subtask, SubtaskFlow
from ondevice.apps.dialogue_trial import Trial, run_trial
from ondevice.backends.language import LanguageSession
from ondevice.data import dialogues
from ondevice.errors import NotBuilt
from ondevice.kernels import PAGE, Kernels
from ondevice.measure.compare import Comparison, Evidence, absolute, difference, ratio
from ondevice.measure.sidebyside import side_by_side
from ondevice.models import zoo
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

SMALL = {"num_hidden_layers": 4, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768}
Lengths = dict[int, float | None]  # of histories, and how long a side path may take of reading anew
REAL: Lengths = {512: None, 1024: 0.25, 2048: 0.15}
# conversations, repeats, lengths
SIZES: dict[str, tuple[int, int, Lengths]] = {
    "tiny": (1, 1, {64: None, 128: None}), "fast": (25, 3, REAL), "full": (100, 7, REAL),
}  # fmt: skip
INSTRUCTION = "\n# put the last message of the user so that it can be understood without the others ?\n="


@system("ciflex")
def prove(scale: Scale) -> Evidence:
    """Answers, choices, exactness and memory over conversations; time to a task's first token by length of history."""
    conversations, repeats, lengths = SIZES[scale.name]
    name, tiny = "dialogue-lm", scale.name == "tiny"
    try:
        folder = zoo.locate(name)
    except NotBuilt:
        if not tiny:
            raise
        name, folder = "reference-lm", zoo.locate("reference-lm")
    with LanguageSession.open(folder, threads=1, cache="float32", texts=8) as session:
        decoder, tokenizer = session.engine.decoder, session.tokenizer
        assert isinstance(decoder, Decoder)
        made = dialogues.make("test", conversations, turns=4 if tiny else 12, seed=scale.seed)
        trial = run_trial(decoder, tokenizer, made, scale.seed)
    config, tensors = random_decoder(SHAPES["qwen3-0.6b"] | (SMALL if tiny else {}), seed=scale.seed)
    longest = max(lengths) + 128
    large = Decoder(tensors, config, Kernels(2), context=longest, cache_tokens=5 * longest)
    timed, notes = _timed(large, tokenizer, repeats, lengths)
    notes.append(
        f"{name}: {len(trial.side)} sub-tasks in {conversations} conversations, {np.mean(trial.side):.3f} right"
    )
    return Evidence(*_judged(trial), *timed, notes=notes)


def _judged(trial: Trial) -> list[Comparison]:
    def share(found: list[bool]) -> float:
        return float(np.mean(found))

    def counted(metric: str, value: float) -> Comparison:
        return Comparison(metric, "", None, value, absolute("<=", 0), kind="counted")

    side, moved = share(trial.side), [share(trial.choice_moved), share(trial.tree_moved)]
    return [
        counted("tokens read for sub-tasks beyond instructions and answers", trial.read - trial.needed),
        counted("answers that differ from those read anew", trial.differ),
        Comparison("logits of a conversation with side paths, off those without", "", None, trial.apart,
                   absolute("<=", 1e-4)),
        counted("conversations that go on differently", trial.strays),
        Comparison("right answers on side paths", "", None, side, absolute(">=", 0.5)),
        Comparison("right answers, against reading all anew", "", share(trial.suffix), side, difference(">=", -0.01)),
        Comparison("right answers, against the task put first", "", share(trial.prefix), side, difference(">=", -0.02)),
        Comparison("right task chosen, a tree of questions against one", "", share(trial.choice), share(trial.tree),
                   difference(">=", 0)),
        Comparison("choices that change with the order of options", "", moved[0], moved[1], difference("<=", 0)),
        counted(f"pages of {PAGE} tokens that a side path takes beyond its own tokens", max(trial.pages)),
    ]  # fmt: skip


def _timed(
    decoder: Decoder, tokenizer: Any, repeats: int, lengths: Lengths
) -> tuple[list[Comparison], list[str]]:
    """Seconds to the first token of a task's answer."""
    rng, found, notes = np.random.default_rng(0), list[Comparison](), list[str]()
    asked = tokenizer.encode(INSTRUCTION).ids
    for length, most in lengths.items():
        history = rng.integers(10, 4000, length).tolist()
        flow = SubtaskFlow(decoder, tokenizer, [Subtask("task", INSTRUCTION, limit=1)])
        flow.go_on(history)
        anew, kept = Engine(decoder), Engine(decoder, keep=1)
        list(kept.stream(history, limit=1))
        arms: dict[str, Callable[[], object]] = {
            "side path": partial(flow.subtask, "task"),
            "read anew": partial(_first, anew, [*asked, *history]),
            "cache of prefixes": partial(_first, kept, [*history, *asked], length, count(10)),
        }
        seconds = side_by_side(arms, repeats, warmup=1)
        if most is not None:
            metric = f"a task's first token, {length} tokens of history"
            found.append(
                Comparison(metric, "s", seconds["read anew"], seconds["side path"], ratio("<=", most))
            )
        notes += [f"{length} tokens of history and {len(asked)} of instruction, {name}: first token after {figure}"
                  for name, figure in seconds.items()]  # fmt: skip
        flow.free()
        while kept.kept.drop():
            pass
    return found, notes


def _first(engine: Engine, ids: list[int], at: int | None = None, fresh: Iterator[int] | None = None) -> None:
    """The first token of an answer. at: place of a token that is drawn from `fresh`, or what was read for the last
    prompt would do for this one too."""
    if at is not None and fresh is not None:
        ids = [*ids[:at], next(fresh), *ids[at + 1 :]]
    for _ in engine.stream(ids, limit=1):
        pass
