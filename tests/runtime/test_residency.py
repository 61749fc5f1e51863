"""A plan keeps its limit, fills it, and loads layers evenly; what cannot be is refused with the least that could."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.artifact import Place
from ondevice.errors import BudgetNotMet
from ondevice.runtime.residency import Rates, ResidencyPlan, choose_locked, plan_residency
from ondevice.runtime.weights.parts import Part, Stage
from ondevice.runtime.weights.random import random_decoder
from ondevice.runtime.weights.shapes import SHAPES


class _Placed:
    """A stored tensor of a file that is not there: a plan loads nothing."""

    def __init__(self, format: Any, nbytes: int, offset: int) -> None:
        self.format, self.place = format, Place(Path("nowhere"), offset, nbytes)

    @property
    def array(self) -> Any:
        raise AssertionError("a plan reads no tensor")


def tensors_of(shape: dict[str, Any]) -> dict[str, Any]:
    _, made = random_decoder(shape)
    placed: dict[str, Any] = {}
    for number, (name, tensor) in enumerate(made.items()):
        small = tensor.format["kind"] == "dense"
        placed[name] = tensor if small else _Placed(tensor.format, tensor.array.nbytes, number * 4096)
    return placed


SMALL = SHAPES["qwen3-0.6b"] | {"vocab_size": 20_000, "num_hidden_layers": 6}
TENSORS = {tied: tensors_of(SMALL | {"tie_word_embeddings": tied}) for tied in (True, False)}


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(0, 200_000_000),
    process=st.integers(0, 50_000_000),
    tied=st.booleans(),
    context=st.one_of(st.none(), st.integers(2, 3000)),
)
def test_a_plan_fits_its_limit_or_says_what_would(
    limit: int, process: int, tied: bool, context: int | None
) -> None:
    config, tensors = SMALL | {"tie_word_embeddings": tied}, TENSORS[tied]
    try:
        plan = plan_residency(tensors, config, limit, process=process, context=context)
    except BudgetNotMet as refused:
        least = float(re.findall(r"make ([\d.]+) MB", str(refused))[0]) * 1e6
        assert least > limit * 0.999
        if context is not None:
            enough = plan_residency(tensors, config, int(least * 1.001), process=process, context=context)
            assert enough.total <= least * 1.001
        return
    assert plan.total <= limit
    assert context in (None, plan.context)
    held = sum(part.nbytes for stage in plan.stages for part in stage.parts if part.name in plan.names)
    assert held + plan.streamed == plan.weights
    assert held <= plan.locked


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0.15, 0.95), tied=st.booleans())
def test_memory_is_used_and_layers_are_even(share: float, tied: bool) -> None:
    tensors, config = TENSORS[tied], SMALL | {"tie_word_embeddings": tied}
    base = plan_residency(tensors, config, 10**9, process=0, context=64)
    limit = base.total - base.locked - base.ring + int(share * base.weights)
    plan = plan_residency(tensors, config, limit, process=0, context=64)
    by_layer = [
        [part for stage in group for part in stage.parts]
        for _, group in itertools.groupby(plan.stages, key=lambda stage: stage.key[0])
    ]
    streamed = [sum(part.nbytes for part in layer if part.name not in plan.names) for layer in by_layer[:-1]]
    largest = max(part.nbytes for part in by_layer[0])
    assert max(streamed) - min(streamed) <= largest
    assert limit - plan.total <= largest + (6 << 20)  # less than the largest tensor and what is rounded


def parts(sizes: list[list[int]]) -> list[Stage]:
    return [
        Stage(
            (layer, "joint"),
            tuple(
                Part(f"{layer}.{number}", f"{layer}.{number}", Place(Path("x"), 0, 4096 * size), {}, 0)
                for number, size in enumerate(each)
            ),
        )
        for layer, each in enumerate(sizes)
    ]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7),
    layers=st.integers(1, 6),
    most=st.integers(0, 1000),
)
def test_each_layer_is_filled_as_well_as_can_be(sizes: list[int], layers: int, most: int) -> None:
    stages = parts([sizes] * layers)
    chosen = choose_locked(stages, 4096 * most, "balanced")
    used = sum(part.nbytes for stage in stages for part in stage.parts if part.name in chosen) // 4096
    assert used <= most
    share = min(sum(sizes), int(sum(sizes) * min(1, most / (layers * sum(sizes)))))
    best = max(  # by trying every set, which is what a knapsack is
        sum(each)
        for count in range(len(sizes) + 1)
        for each in itertools.combinations(sizes, count)
        if sum(each) <= share
    )
    for stage in stages:
        assert sum(part.nbytes for part in stage.parts if part.name in chosen) // 4096 >= best
    left = [part.nbytes // 4096 for stage in stages for part in stage.parts if part.name not in chosen]
    assert not left or min(left) > most - used  # nothing that would still fit is left out


def test_whole_layers_are_locked_from_the_first() -> None:
    stages = parts([[3, 4]] * 4)
    assert choose_locked(stages, 4096 * 15, "layerwise") == {"0.0", "0.1", "1.0", "1.1"}
    assert choose_locked(stages, 4096 * 100, "none") == frozenset()


def test_on_equal_bytes_the_small_tensors_stay() -> None:
    assert choose_locked(parts([[6, 3, 3]]), 4096 * 6, "balanced") == {"0.1", "0.2"}


def test_what_is_expected_follows_the_slower_one() -> None:
    plan = ResidencyPlan((), frozenset(), 0, 0, 0, 0, 0, 1000, 0, 0, 0)
    assert plan.seconds(Rates(100.0, float("inf"), True)) == 10


def test_weights_that_are_converted_cannot_be_streamed() -> None:
    config, tensors = random_decoder(SMALL | {"num_hidden_layers": 1, "vocab_size": 64})
    with pytest.raises(BudgetNotMet, match="ondevice fit"):
        plan_residency(tensors, config, 1000)
