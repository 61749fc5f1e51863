"""A conversation and small tasks on its way, by one language model: a task reads its instruction behind what the cache
holds already, and is forgotten again.

Knows a decoder's cache, instructions, and yes-or-no questions. Knows nothing of which tasks there are. The conversation
is the main path; a task's instruction and answer are a side path, from a mark to which the cache goes back. Positions
go on from the mark, so that an answer is the one that conversation and instruction give when they are read anew.

Source: "CIFLEX: Contextual Instruction Flow for Sub-task Execution in Multi-Turn Interactions with a Single On-Device
LLM". Prior calibration, which it does not give, is the difference of the logits after the question alone.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.kv.paged import CachedSequence

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subtask:
    """instruction: what is put behind the conversation. limit: most tokens of an answer. stop: a text that ends it.
    inject: what then goes on in the conversation, `{answer}` in it replaced; None for nothing."""

    name: str
    instruction: str
    limit: int = 64
    stop: str = "\n"
    inject: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.instruction or self.limit < 1:
            raise BadInput(
                f"the sub-task {self.name!r} needs a name, an instruction and a limit of 1 or more"
            )


@dataclass(frozen=True)
class Side:
    """What a side path gave. read: tokens that were read for it, its answer's own not counted. seconds: until its first
    token. cache_bytes: that it took at most, beyond the conversation's."""

    answer: str
    tokens: tuple[int, ...]
    read: int
    seconds: float
    cache_bytes: int


class SubtaskFlow:
    """A conversation that is held once in the decoder's cache.

    tokenizer: a `tokenizers.Tokenizer`. ends: tokens that end whatever is written. tokens: of the conversation. read:
    tokens that were read on side paths so far. Raises BadInput for two tasks of one name.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Any,
        tasks: Sequence[Subtask] = (),
        *,
        ends: frozenset[int] = frozenset(),
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        if len(self.tasks) != len(tasks):
            raise BadInput(f"two sub-tasks have one name: {', '.join(task.name for task in tasks)}")
        self.decoder, self.tokenizer, self.ends = decoder, tokenizer, ends
        self.tokens: list[int] = []
        self.read = 0
        self._sequence = decoder.cache.sequence()
        self._logits: Floats | None = None

    def say(self, text: str) -> None:
        """Go on with a text in the conversation. Raises BadInput where it is empty or the context does not hold it."""
        self.go_on(self._encode(text))

    def go_on(self, tokens: Sequence[int]) -> None:
        """The same with tokens."""
        [logits] = self.decoder.step([(self._sequence, tokens)])
        self.tokens += tokens
        self._logits = logits[0]

    def write(self, limit: int = 64, stop: str = "\n") -> str:
        """Have the model go on in the conversation, greedily; say something before it writes again. What stops it stays
        out of the conversation. Raises BadInput where the context does not hold so many tokens."""
        if self._logits is None:
            raise BadInput("there is nothing to answer; say something first")
        self._fits(limit, "answer")
        answer, tokens = self._greedy(self._logits, limit, stop)
        self.tokens += tokens[: self._sequence.length - len(self.tokens)]
        self._logits = None
        return answer

    def subtask(self, name: str) -> Side:
        """Do a task on a side path; the conversation is as it was, unless the task injects.

        Raises BadInput for an unknown task, and where the context does not hold instruction and answer.
        """
        if name not in self.tasks:
            raise BadInput(f"no sub-task {name!r}; there are: {', '.join(self.tasks) or 'none'}")
        task = self.tasks[name]
        ids = self._encode(task.instruction)
        self._fits(len(ids) + task.limit, name)
        cache, mark = self.decoder.cache, self._sequence.mark()
        before, started = cache.bytes_used, time.perf_counter()
        try:
            [logits] = self.decoder.step([(self._sequence, ids)])
            first = time.perf_counter() - started
            answer, tokens = self._greedy(logits[0], task.limit, task.stop)
            taken = cache.bytes_used - before
        finally:
            self._sequence.rollback(mark)
        self.read += len(ids)
        if task.inject is not None:
            self.say(task.inject.replace("{answer}", answer))
        return Side(answer, tuple(tokens), len(ids), first, taken)

    def logits(self, texts: Sequence[str], *, alone: bool = False) -> Floats:
        """After each of some texts on a side path of its own, all read in one batch, (texts, vocabulary). alone: each
        without the conversation. Raises BadInput where the context does not hold one."""
        ids = [self._encode(text) for text in texts]
        self._fits(max(map(len, ids), default=0), "question")
        forks: list[CachedSequence] = []
        try:
            for _ in ids:
                forks.append(self.decoder.cache.sequence() if alone else self._sequence.fork())
            rows = self.decoder.step(list(zip(forks, ids, strict=True)))
        finally:
            for fork in forks:
                fork.free()
        self.read += 0 if alone else sum(map(len, ids))
        return np.concatenate(rows)

    def free(self) -> None:
        """Give the cache back; the conversation is over."""
        self._sequence.free()
        self.tokens, self._logits = [], None

    def _greedy(self, logits: Floats, limit: int, stop: str) -> tuple[str, list[int]]:
        """What follows, and its tokens, the last of which is not read."""
        tokens: list[int] = []
        while True:
            tokens.append(int(logits.argmax()))
            text = str(self.tokenizer.decode(tokens))
            if tokens[-1] in self.ends:
                return str(self.tokenizer.decode(tokens[:-1])), tokens
            if stop and stop in text:
                return text[: text.index(stop)], tokens
            if len(tokens) == limit:
                return text, tokens
            logits = self.decoder.step([(self._sequence, tokens[-1:])])[0][0]

    def _encode(self, text: str) -> list[int]:
        ids = list(self.tokenizer.encode(text, add_special_tokens=False).ids)
        if not ids:
            raise BadInput("the text is empty")
        return ids

    def _fits(self, tokens: int, name: str) -> None:
        if self._sequence.length + tokens > self.decoder.context:
            raise BadInput(
                f"{name}: {tokens} tokens behind a conversation of {self._sequence.length} are more than the context "
                f"of {self.decoder.context}; shorten it or its limit, or open the model with a longer context"
            )


@dataclass(frozen=True)
class YesNo:
    """What tells yes from no: the first token in which they differ, behind the tokens that both begin with."""

    before: str
    yes: int
    no: int

    @classmethod
    def of(cls, tokenizer: Any, yes: str = " yes", no: str = " no") -> YesNo:
        """Raises BadInput where one is the beginning of the other in this tokenizer."""
        one, other = (list(tokenizer.encode(word, add_special_tokens=False).ids) for word in (yes, no))
        for place, (first, second) in enumerate(zip(one, other)):
            if first != second:
                return cls(str(tokenizer.decode(one[:place])), first, second)
        raise BadInput(
            f"{yes!r} and {no!r} cannot be told apart by a token of this tokenizer; use other words"
        )


class BinaryTree:
    """Which task is needed: first whether any is, then a question for each, all on side paths; the surest one wins.

    gate: the first question. questions: of each task. calibrate: subtract what the model says to a question without a
    conversation.
    """

    def __init__(
        self,
        flow: SubtaskFlow,
        gate: str,
        questions: Mapping[str, str],
        *,
        words: YesNo | None = None,
        calibrate: bool = False,
    ) -> None:
        if not questions:
            raise BadInput("a choice needs at least one task to ask about")
        self._flow, self._names = flow, list(questions)
        self._words = words or YesNo.of(flow.tokenizer)
        self._texts = [text + self._words.before for text in (gate, *questions.values())]
        self._prior = np.zeros(len(self._texts), np.float32)
        if calibrate:
            self._prior = self._gap(flow.logits(self._texts, alone=True))

    def decide(self) -> str | None:
        """The task that the conversation calls for now, or None."""
        if self._gap(self._flow.logits(self._texts[:1]))[0] <= self._prior[0]:
            return None
        gaps = self._gap(self._flow.logits(self._texts[1:])) - self._prior[1:]
        return self._names[int(gaps.argmax())]

    def _gap(self, logits: Floats) -> Floats:
        return np.asarray(logits[:, self._words.yes] - logits[:, self._words.no])


class MultiChoice:
    """Which task is needed, by one question with letters for answers: what `BinaryTree` is set beside.

    question: made of names in an order. letters: of the first option, the second, …, as the model would write them.
    Raises BadInput where a letter is not one token.
    """

    def __init__(
        self, flow: SubtaskFlow, question: Callable[[Sequence[str]], str], letters: Sequence[str]
    ) -> None:
        ids = [flow.tokenizer.encode(letter, add_special_tokens=False).ids for letter in letters]
        if any(len(each) != 1 for each in ids):
            raise BadInput(f"the letters {list(letters)} are not one token each in this tokenizer")
        self._flow, self._question, self._letters = flow, question, [each[0] for each in ids]

    def decide(self, order: Sequence[str]) -> str:
        """One of the names. Raises BadInput for more names than letters."""
        if not 0 < len(order) <= len(self._letters):
            raise BadInput(f"{len(order)} options for {len(self._letters)} letters")
        [logits] = self._flow.logits([self._question(order)])
        return order[int(logits[self._letters[: len(order)]].argmax())]


def read_tasks(path: str | Path) -> list[Subtask]:
    """Sub-tasks of a TOML file: a table `[NAME]` each, with `instruction` and perhaps `limit`, `stop`, `inject`.

    Raises BadInput where it cannot be read, is not TOML, or has other fields.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return [Subtask(name, **fields) for name, fields in tables.items()]
    except OSError as problem:
        raise BadInput(f"{path} cannot be read: {problem.strerror}") from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as problem:
        raise BadInput(f"{path} is no list of sub-tasks: {problem}") from problem
