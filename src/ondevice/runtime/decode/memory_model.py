"""What speculation takes in memory beside the model's weights, and the largest useful tree that a budget holds.

Knows sizes, rates of acceptance, and how long a pass over so many tokens takes. Knows nothing of files or of where
guesses come from. Bytes are those of this runtime's own buffers, so that they can be held to what it allocates.

Source: "SpecMemo: Speculative Decoding is in Your Pocket" (2025) for the question: speculation with memory as the
controlled quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ondevice.errors import BudgetNotMet
from ondevice.kernels import CacheDtype
from ondevice.measure.amounts import amount
from ondevice.runtime.decode.speculative import MOST
from ondevice.runtime.decode.tree import LARGEST, LODGED, Path, Rates, expected_tokens, grow
from ondevice.runtime.decoder import Shape
from ondevice.runtime.kv.paged import PagedCache

_FEED_ROWS = 128  # that the gated layer widens at a time
_OBJECTS = 64_000  # bytes of Python's lists of tokens, trees and rates, about
_SAMPLED = 24  # bytes a token of the vocabulary, in choosing from one row of logits


@dataclass(frozen=True)
class Generation:
    """What texts are written with. context: tokens of each. texts: side by side. chunk: tokens of a prompt in a step.
    at_once: rows of logits. tiled: whether weights are tiles with int8 activations; else they are floats. tile: panels
    that a thread unpacks."""

    shape: Shape
    inner: int
    vocabulary: int
    context: int
    texts: int = 1
    chunk: int = 64
    cache: CacheDtype = "float16"
    at_once: int = MOST + 1
    tiled: bool = False
    threads: int = 1
    tile: int = 3

    @classmethod
    def of(cls, config: Mapping[str, Any], **settings: Any) -> Generation:
        """Of a model's configuration."""
        shape = Shape.of(config)
        inner = int(config.get("intermediate_size") or 4 * shape.hidden)
        return cls(shape, inner, int(config["vocab_size"]), **settings)


@dataclass(frozen=True)
class GenerationMemory:
    """Bytes. cache: keys and values of the texts. candidates: of a large tree, in scratch pages. heads: their weights.
    kernels: the most that they take for themselves. arrays: the most that the other numbers of a step take, mostly
    logits, and Python's objects; both peaks are counted in full, though they may not fall together."""

    cache: int
    candidates: int
    heads: int
    kernels: int
    arrays: int

    @property
    def total(self) -> int:
        return self.cache + self.candidates + self.heads + self.kernels + self.arrays


def generation_memory(how: Generation, nodes: int, heads: int) -> GenerationMemory:
    """Of trees of so many nodes that so many heads guess; 0 and 0 for plain decoding."""
    shape, hidden, vocabulary = how.shape, how.shape.hidden, how.vocabulary
    rows = how.texts * (1 + nodes)
    sizes = shape.layers, shape.cached_heads, shape.head_size

    def cached(tokens: int) -> int:
        return PagedCache.bytes_of(tokens, *sizes, how.cache) if tokens else 0

    longest = max(
        rows, how.chunk + (how.texts - 1) * (1 + nodes)
    )  # some write while another's prompt is read
    joint = (shape.heads + 2 * shape.cached_heads) * shape.head_size
    mixed = shape.heads * shape.head_size
    widest = max(hidden, mixed, how.inner)
    kernels = 4 * (longest * (hidden + joint + mixed) + min(longest, _FEED_ROWS) * 3 * how.inner)
    kernels += how.threads * how.tile * (16 * widest + 64) * (1 if how.tiled else 5)  # unpacked weights
    if how.tiled:
        kernels += longest * (-(-widest // 64) * 64 + 64)  # activations in int8
    at_once = max(how.at_once, how.texts) if nodes else how.texts
    logits = 4 * longest * hidden + 4 * at_once * (vocabulary + hidden) + _SAMPLED * vocabulary
    guessing = heads * 4 * (vocabulary + 3 * hidden) + 12 * vocabulary if heads else 0
    arrays = max(3 * 4 * longest * hidden, logits, guessing) + _OBJECTS
    weights = heads * (2 * hidden * hidden + 4 * hidden)
    return GenerationMemory(
        how.texts * cached(how.context),
        cached(how.texts * nodes) if nodes > LODGED else 0,
        weights,
        kernels,
        arrays,
    )


@dataclass(frozen=True)
class TreePlan:
    """paths: the tree's nodes. heads: that guess it. tokens: expected of a pass. speedup: over plain decoding.
    memory: what it takes."""

    paths: tuple[Path, ...]
    heads: int
    tokens: float
    speedup: float
    memory: GenerationMemory


def tree_plans(
    how: Generation, rates: Rates, seconds: Callable[[int], float], guessing: Callable[[int], float]
) -> list[TreePlan]:
    """The best tree of every size and number of heads: plain decoding first, then by size.

    rates: (heads, ranks) of acceptance. seconds: of a pass over so many tokens. guessing: of so many heads' guesses.
    """
    plain = seconds(how.texts)
    plans = [TreePlan((), 0, 1.0, 1.0, generation_memory(how, 0, 0))]
    for heads in range(1, len(rates) + 1):
        grown = grow(rates[:heads], LARGEST)
        tokens = expected_tokens(grown)
        for nodes in range(1, len(grown) + 1):
            paths = tuple(path for path, _ in grown[:nodes])
            if max(map(len, paths)) < heads:
                continue  # a tree that does without the last head stands there already
            took = seconds(how.texts * (1 + nodes)) + guessing(heads)
            memory = generation_memory(how, nodes, heads)
            plans.append(TreePlan(paths, heads, tokens[nodes], tokens[nodes] * plain / took, memory))
    return plans


def choose_tree(plans: Sequence[TreePlan], budget: int, least: float = 1.0) -> TreePlan:
    """The fastest plan within so many bytes beside the weights; of equals the smaller one.

    least: speed-up that it must reach. Raises BudgetNotMet where none does, with the least budget that would.
    """
    fits = [plan for plan in plans if plan.memory.total <= budget and plan.speedup >= least]
    if not fits:
        bound = lower_bound(plans, least)
        reached = max(plan.speedup for plan in plans)
        raise BudgetNotMet(
            f"{amount(budget, 'bytes')} for generation do not hold speculation that is {least:g} times as fast as "
            "plain decoding; "
            + (
                f"the least that does: {amount(bound, 'bytes')}"
                if bound is not None
                else f"none does at any size, the most is {reached:.2f}"
            ),
            limit="memory",
        )
    return max(fits, key=lambda plan: (plan.speedup, -plan.memory.total))


def lower_bound(plans: Sequence[TreePlan], least: float) -> int | None:
    """The least bytes at which some plan is so many times as fast as plain decoding; None where none ever is."""
    return min((plan.memory.total for plan in plans if plan.speedup >= least), default=None)


def frontier(plans: Sequence[TreePlan]) -> list[TreePlan]:
    """Those for which no other is as fast in as little memory, smallest first."""
    found: list[TreePlan] = []
    for plan in sorted(plans, key=lambda each: (each.memory.total, -each.speedup)):
        if not found or plan.speedup > found[-1].speedup:
            found.append(plan)
    return found
