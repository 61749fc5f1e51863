"""A record of which guesses were right, and the same passes again on a decoder of another size.

Knows trees, passes and a record of a model that writes sense. On a decoder of random weights, whose speed is that of
any of its shape, guesses would never be right: here each pass checks a tree as it would, and what is taken is what the
record says. Knows nothing of tokens that mean anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ondevice.errors import BadInput
from ondevice.kernels import Linear, Matrix
from ondevice.runtime.decode.heads import Heads, HeadsDraft
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decode.speculative import MOST, TreePace
from ondevice.runtime.decode.tree import Rates, Tree
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.kv.paged import Branches

Trace = list[tuple[int, ...]]  # of each pass, the nodes that were right


@dataclass
class Recorder(TreePace):
    """A pace that always asks for the whole tree, and keeps which of its nodes were right. trace: so far; passes whose
    tree was cut at the end of a text are left out."""

    fixed: bool = True
    trace: Trace = field(default_factory=list)

    def observed(self, tree: Tree, path: Sequence[int]) -> None:
        if len(tree) == self.most:
            self.trace.append(tuple(path))

    @property
    def tokens_per_pass(self) -> float:
        return 1.0 + sum(map(len, self.trace)) / max(1, len(self.trace))


def random_heads(hidden: int, count: int, seed: int = 0) -> Heads:
    """Heads of a width that none were trained for: they take the time that such take, and guess anything."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(count):
        weights = (rng.standard_normal((hidden, hidden), np.float32) / np.sqrt(hidden)).astype(np.float16)
        layers.append(Linear((Matrix.dense(weights),), (np.zeros(hidden, np.float32),)))
    return Heads(tuple(layers), np.full((count, 1), 0.5))


def replay(
    decoder: Decoder, prompt: Sequence[int], trace: Trace, rates: Rates, nodes: int, tokens: int
) -> tuple[float, int]:
    """Write about so many tokens after a prompt: seconds of all passes after that over the prompt, and tokens written.

    trace: of trees of so many nodes that `rates` give; repeated where it is shorter. 0 nodes: plain decoding, one token
    a pass. Heads guess in every pass, logits are made and tokens chosen as the engine does. Raises BadInput for a
    trace without passes.
    """
    if nodes and not trace:
        raise BadInput("there is no trace to go by")
    pace = TreePace(max(1, nodes), rates=rates, fixed=True)
    draft = HeadsDraft(random_heads(decoder.shape.hidden, len(rates)), decoder, pace)
    sequence, guesser, sampler = decoder.cache.sequence(), draft.begin(), Sampling().sampler()
    [states] = decoder.read([(sequence, list(prompt))])
    last = sampler.choose(decoder.logits(states)[0]).token
    guesser.see(states[0])
    written, passes, started = 0, 0, time.perf_counter()
    while written < tokens:
        tree = guesser.guess([last], nodes) if nodes else Tree.chain([])
        path = trace[passes % len(trace)] if nodes else ()
        with decoder.cache.scratch(len(tree)) as slots:
            [states] = decoder.read(
                [(sequence, [last, *tree.tokens])],
                last=[1 + len(tree)],
                branches=[Branches(tree.depths, slots)],
            )
            rows = [0, *(node + 1 for node in path)]
            logits = decoder.logits(states if decoder.streams else states[: MOST + 1])
            for number, row in enumerate(rows):
                if row >= len(logits):  # logits of the next few, as the engine makes them
                    logits = np.concatenate([logits, decoder.logits(states[len(logits) : row + MOST + 1])])
                last = sampler.choose(logits[row]).token
                if number:
                    sequence.take(slots[row - 1 : row])
        sequence.rollback(sequence.length)
        guesser.see(states[rows[-1]])
        written += len(rows)
        passes += 1
    seconds = time.perf_counter() - started
    sequence.free()
    return seconds, written
