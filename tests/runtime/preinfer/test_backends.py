"""Assignment of operators to two backends, against all assignments."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ondevice.errors import BadInput
from ondevice.runtime.preinfer.backends import Operator, cost_of, exhaustive, schedule


def draw(rng: np.random.Generator, count: int = 10) -> list[Operator]:
    operators = []
    for number in range(count):
        costs = rng.uniform(0, 10, 2)
        if rng.random() < 0.25:  # one backend has no kernel for it
            costs[rng.integers(2)] = np.inf
        inputs = rng.choice(number, size=min(number, int(rng.integers(0, 4))), replace=False)
        copy = float(rng.choice([0.0, rng.uniform(0, 5)]))
        operators.append(Operator((float(costs[0]), float(costs[1])), tuple(int(i) for i in inputs), copy))
    return operators


@pytest.mark.parametrize("seed", range(200))
def test_the_assignment_is_the_cheapest_of_all(seed: int) -> None:
    operators = draw(np.random.default_rng(seed))
    found = schedule(operators)
    best = exhaustive(operators)
    assert best.cost == min(cost_of(operators, sides) for sides in product((0, 1), repeat=len(operators)))
    assert found.cost == pytest.approx(best.cost)
    assert found.cost == cost_of(operators, found.backends)


def test_a_result_that_is_read_twice_is_copied_once() -> None:
    operators = [Operator((1, 100), copy=3), Operator((100, 1), (0,)), Operator((100, 1), (0,))]
    assert schedule(operators).cost == 1 + 3 + 1 + 1


def test_a_dear_copy_keeps_neighbours_together() -> None:
    operators = [Operator((1, np.inf), copy=50), Operator((5, 1), (0,), copy=50), Operator((1, np.inf), (1,))]
    assert schedule(operators).backends == (0, 0, 0)
    cheap = [Operator(it.costs, it.inputs, 1) for it in operators]
    assert schedule(cheap).backends == (0, 1, 0)


def test_operators_that_nothing_runs_are_refused() -> None:
    with pytest.raises(BadInput, match="operator 1 runs on neither"):
        schedule([Operator((1, 1)), Operator((np.inf, np.inf))])
    with pytest.raises(BadInput, match="costs are 0 or more"):
        schedule([Operator((-1, 1))])
    with pytest.raises(BadInput, match="only those before it"):
        schedule([Operator((1, 1), (0,))])
