"""Writing: texts go on token by token, several of them in one batch.

Knows a decoder, its cache and how tokens are chosen. Knows nothing of tokenizers: prompts and answers are ids.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from ondevice.errors import BadInput, OndeviceError
from ondevice.kernels import PAGE
from ondevice.runtime.decode.constraint import Constraint
from ondevice.runtime.decode.sampling import Choice, Sampling
from ondevice.runtime.decode.speculative import MOST, Speculation
from ondevice.runtime.decode.tree import LARGEST, LODGED, Tree
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.encdec import EncoderDecoder
from ondevice.runtime.kv.paged import Branches, CachedSequence, CacheFull
from ondevice.runtime.kv.prefixes import Prefixes, common
from ondevice.runtime.texts import Part, Text

Floats = npt.NDArray[np.float32]
_CHUNK = 512  # tokens of a prompt that are read in one step


@dataclass(frozen=True)
class Written:
    """One token of a text. text: which (as `add` numbered it). finish: None, or why it was the last: "stop" for a
    stop token, "complete" where its constraint lets nothing follow, "length" for the most that was asked for or
    that fits. Where finish is "error", there is no token: `error` says what went wrong."""

    text: int
    choice: Choice
    finish: str | None
    error: str = ""


class Engine:
    """Continuous batching: texts join and leave between steps. A text's tokens do not depend on the others.

    chunk: most tokens of prompts read in a step, so that running texts do not wait long for a new one. keep: how
    many finished texts stay in the cache as long as nobody needs their pages; a new text that begins like one of
    them, or like one that is running, goes on from there. speculation: guesses that are checked several in a step;
    tokens are the same with and without. at_once: tokens whose logits are made together, or one a text. Raises
    BadInput for speculation with an encoder-decoder.
    """

    def __init__(
        self,
        decoder: Decoder | EncoderDecoder,
        *,
        chunk: int = _CHUNK,
        keep: int = 0,
        speculation: Speculation | None = None,
        at_once: int = MOST + 1,
    ) -> None:
        if chunk < 1 or keep < 0:
            raise BadInput(f"chunk must be 1 or more and keep not negative, not {chunk} and {keep}")
        if speculation and isinstance(decoder, EncoderDecoder):
            raise BadInput("an encoder-decoder is not speculated with; leave speculation out")
        self.speculation, self._at_once = speculation, at_once
        self._reader = decoder if isinstance(decoder, EncoderDecoder) else None
        self.decoder, self.chunk, self.kept = decoder, chunk, Prefixes(0 if self._reader else keep)
        self.reused = 0  # tokens of prompts that need not be read again, since the start
        self._numbers = count()
        self._texts: dict[int, Text] = {}

    @property
    def continues(self) -> bool:
        """Whether what is written goes on with its prompt; an encoder-decoder begins anew."""
        return self._reader is None

    @property
    def running(self) -> int:
        """Texts that are not finished."""
        return len(self._texts)

    def add(
        self,
        prompt: Sequence[int],
        *,
        sampling: Sampling | None = None,
        limit: int = 256,
        stops: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> int:
        """Begin a text; its number. prompt: what it goes on with, or what an encoder-decoder reads. limit: most tokens
        to write. stops: tokens that end it. constraint: what it must be; its state is the text's from now on.

        Raises BadInput for an empty prompt, one that leaves no room in the context, and a limit below 1; CacheFull
        for a prompt that the whole cache does not hold.
        """
        if not len(prompt):
            raise BadInput("the prompt has no tokens")
        if limit < 1:
            raise BadInput(f"limit must be 1 or more, not {limit}")
        if len(prompt) >= self.decoder.context:
            raise BadInput(
                f"the prompt has {len(prompt)} tokens, the context holds {self.decoder.context} with the answer; "
                "shorten it or open the model with a longer context"
            )
        if len(prompt) > self.decoder.cache.tokens - (PAGE if self._reader else 0):
            raise CacheFull(self.decoder.cache.tokens)
        number, tokens, source = next(self._numbers), list(prompt), None
        if self._reader:
            tokens, source = [self._reader.shape.start], tokens
        self._texts[number] = Text(
            number, tokens, (sampling or Sampling()).sampler(), limit, frozenset(stops), constraint,
            self.decoder.cache.sequence(), source,
            guesser=self.speculation.draft.begin() if self.speculation else None,
        )  # fmt: skip
        return number

    def cancel(self, number: int) -> None:
        """End a text and let go of its pages; nothing where it has ended already."""
        text = self._texts.pop(number, None)
        if text is not None:
            if text.guesser is not None:
                text.guesser.close()
            text.sequence.rollback(
                min(text.read, text.sequence.length)
            )  # guesses behind a token that ended it
            self.kept.keep(text.tokens[: text.read], text.sequence)

    def step(self) -> list[Written]:
        """Read and write once: each text whose prompt is read gets its next token, or more where guesses were right."""
        start = time.perf_counter()
        batch = self._batch()
        while not batch and self._texts:
            ended = self._give_way()
            if ended:
                return [ended]
            batch = self._batch()
        with ExitStack() as kept:
            self._keep_branches(batch, kept)
            inputs = [(part.text.sequence, [*part.tokens, *part.tree.tokens]) for part in batch]
            if isinstance(self.decoder, Decoder):
                last = [1 + len(part.tree) for part in batch]
                states = self.decoder.read(inputs, last=last, branches=[part.branches for part in batch])
            else:
                states = self.decoder.step(inputs)
            for part, rows in zip(batch, states, strict=True):
                part.text.read += len(part.tokens)
                part.states = rows
            written = self._written([part for part in batch if not part.text.unread])
        if self.speculation and all(part.wrote for part in batch):
            rows_read = sum(len(part.tokens) + len(part.tree) for part in batch)
            self.speculation.pace.timed(rows_read, time.perf_counter() - start)
        return written

    def _keep_branches(self, batch: list[Part], kept: ExitStack) -> None:
        """Slots for the branches of a step: of small trees on their text's own last page, of others in scratch pages.
        Where there is no room for them, a tree loses all but its first path."""
        branched = [part for part in batch if part.tree.branched]
        for part in branched:
            spare = part.text.sequence.spare(len(part.tokens) + part.tree.depth)
            if len(part.tree) <= min(LODGED, len(spare)):
                part.branches = Branches(part.tree.depths, spare[: len(part.tree)])
            elif len(part.tree) <= LODGED:
                part.tree = part.tree.trunk()
        large = [part for part in branched if len(part.tree) > LODGED]
        nodes, cache = sum(len(part.tree) for part in large), self.decoder.cache
        while cache.free_tokens < nodes and self.kept.drop():
            pass
        try:
            slots = kept.enter_context(cache.scratch(nodes))
        except CacheFull:
            for part in large:
                part.tree = part.tree.trunk()
            return
        for part in large:
            part.branches = Branches(part.tree.depths, slots[: len(part.tree)])
            slots = slots[len(part.tree) :]

    def _written(self, parts: list[Part]) -> list[Written]:
        """The next tokens of texts: after the last one, and after each guess as long as they are right. Logits are made
        of a few states at a time, as most are never needed; of all at once where their weights are streamed."""
        written: list[Written] = []
        going = parts
        while going:
            share = max(1, self._at_once // len(going))
            if isinstance(self.decoder, EncoderDecoder) or self.decoder.streams:
                share = LARGEST + 1
            chosen = [part.states[part.row : part.row + share] for part in going]
            found = self._logits(parts, chosen)
            for part in going:
                written += self._go_on(part, found.pop(0))
            going = [part for part in going if part.row >= 0]
        for part in parts:
            if part.text.number in self._texts:
                part.text.sequence.rollback(part.text.read)  # wrong guesses, and what was reserved for them
            if self.speculation and part.wrote:
                self.speculation.judged(
                    part.tree, part.path, sum(it.text == part.text.number for it in written)
                )
        return written

    def _logits(self, parts: list[Part], chosen: list[Floats]) -> list[Floats]:
        if isinstance(self.decoder, EncoderDecoder):
            return chosen
        try:
            logits = self.decoder.logits(np.concatenate(chosen))
        except OndeviceError:  # weights cannot be read: the last token of each is to be read again
            for part in parts:
                if part.text.number in self._texts:
                    part.text.read = min(part.text.read, len(part.text.tokens) - 1)
                    part.text.sequence.rollback(part.text.read)
            raise
        return np.split(logits, np.cumsum([len(rows) for rows in chosen])[:-1])

    def _go_on(self, part: Part, logits: Floats) -> list[Written]:
        """Write what follows a text's row, and the rows of guesses that are right, as far as there are logits."""
        text, first, written = part.text, part.row, list[Written]()
        while 0 <= part.row < first + len(logits):
            text.read = len(text.tokens)
            try:
                allowed = None if text.constraint is None else text.constraint.allowed()
                choice = text.sampler.choose(logits[part.row - first], text.tokens, allowed)
                written.append(self._write(text, choice))
            except BadInput as problem:
                self.cancel(text.number)
                written.append(Written(text.number, Choice(-1, 0.0), "error", str(problem)))
            if text.number not in self._texts:
                part.row = -1
                break
            if text.guesser is not None:
                text.guesser.see(part.states[part.row])
            right = (node for node in part.tree.after(part.row - 1) if part.tree.tokens[node] == choice.token)
            node = next(right, -1)
            part.row = node + 1 if node >= 0 else -1
            if node >= 0:
                part.path.append(node)
                if len(part.branches):
                    text.sequence.take(part.branches.slots[node : node + 1])
        return written

    def _guesses(self, text: Text) -> Tree:
        """What may follow a text, as much as is worth checking and has room without another's."""
        if text.guesser is None or self.speculation is None:
            return Tree.chain([])
        deep = min(text.left - 1, self.decoder.context - len(text.tokens))
        if self.decoder.cache.free_tokens < 2 * PAGE * len(self._texts):
            deep = min(deep, -len(text.tokens) % PAGE)  # on the page that is needed anyway
        most = self.speculation.pace.guesses(len(self._texts))
        return text.guesser.guess(text.tokens, most).cut(deep) if most > 0 and deep > 0 else Tree.chain([])

    def stream(
        self,
        prompt: Sequence[int],
        *,
        sampling: Sampling | None = None,
        limit: int = 256,
        stops: Sequence[int] = (),
        constraint: Constraint | None = None,
    ) -> Iterator[Choice]:
        """One text, token by token; the stop token is not among them. Ending the iteration early frees it.

        Raises BadInput where the text cannot go on: logits that are NaN, a constraint that fails.
        """
        number = self.add(prompt, sampling=sampling, limit=limit, stops=stops, constraint=constraint)
        try:
            while number in self._texts:
                for written in self.step():
                    if written.text == number and written.finish == "error":
                        raise BadInput(written.error)
                    if written.text == number and written.finish != "stop":
                        yield written.choice
        finally:
            self.cancel(number)

    def _batch(self) -> list[Part]:
        """Who reads what in this step, room for it reserved."""
        wanted: list[Part] = []
        room, waits = self.chunk, False
        for text in self._texts.values():
            if text.writing:
                wanted.append(Part(text, text.tokens[-1:], self._guesses(text), True))
            elif room and not waits:
                if not text.read and not self._join(text):
                    waits = True  # those that came later wait too, or it might wait for ever
                    continue
                part = text.tokens[text.read : text.read + room]
                room -= len(part)
                wanted.append(Part(text, part, Tree.chain([]), False))
        # Only now: a text that another forks from gives back what it had reserved.
        batch = []
        for each in wanted:
            if self._reserve(each.text.sequence, len(each.tokens) + each.tree.depth):
                batch.append(each)
            elif not each.text.read:
                each.text.sequence.free()  # its source is read again
        return batch

    def _join(self, text: Text) -> bool:
        """Begin to read a text, from where another is like it. False where it had better wait: for room, or for one
        that is reading what it begins with."""
        if text.source is not None:
            return self._read(text, text.source)
        last = len(text.tokens) - 1  # this one must be read, for what follows it
        found = self.kept.find(text.tokens[:last])
        best, size = found or (None, 0)
        for other in self._texts.values():
            if other is text:  # those after it have not begun
                break
            shared = common(other.tokens, text.tokens[:last])
            if min(shared, other.read) > size:
                best, size = other.sequence, min(shared, other.read)
            if not other.writing and shared >= size + PAGE:
                return False
        if best is not None:
            text.sequence = best if self.kept.release(best, size) else best.fork()
            text.sequence.rollback(size)
        cache = self.decoder.cache
        while cache.free_tokens < len(text.tokens) - size + PAGE and self.kept.drop():
            pass
        if cache.free_tokens < len(text.tokens) - size + PAGE and any(t.read for t in self._texts.values()):
            text.sequence.free()
            return False
        text.read = size
        self.reused += size
        return True

    def _read(self, text: Text, source: list[int]) -> bool:
        """Read what a text is written of. False where there is no room for it as long as others run."""
        assert self._reader is not None
        if self._reader.cache.free_tokens < -(-len(source) // PAGE) * PAGE + PAGE:
            return False
        [text.sequence] = self._reader.begin([source])
        return True

    def _reserve(self, sequence: CachedSequence, tokens: int) -> bool:
        while True:
            try:
                sequence.reserve(tokens)
                return True
            except CacheFull:
                if not self.kept.drop():
                    return False

    def _give_way(self) -> Written | None:
        """No text can go on: the newest that has pages gives them back, to be read again later. Where it is the only
        one, it has all that there is, and ends."""
        holders = [text for text in self._texts.values() if text.read]
        if len(holders) > 1:
            holders[-1].sequence.free()
            holders[-1].read = 0
            return None
        text = holders[0] if holders else next(iter(self._texts.values()))
        self.cancel(text.number)
        return Written(text.number, Choice(-1, 0.0), "error", str(CacheFull(self.decoder.cache.tokens)))

    def _write(self, text: Text, choice: Choice) -> Written:
        text.tokens.append(choice.token)
        text.left -= 1
        if text.constraint is not None and choice.token not in text.stops:
            text.constraint.accept(choice.token)
        finish = None
        if choice.token in text.stops:
            finish = "stop"
        elif text.constraint is not None and text.constraint.complete:
            finish = "complete"
        elif text.left == 0 or len(text.tokens) >= min(self.decoder.context, self.decoder.cache.tokens + 1):
            finish = "length"
        if finish:
            self.cancel(text.number)
        return Written(text.number, choice, finish)
