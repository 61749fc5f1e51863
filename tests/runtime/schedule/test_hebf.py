"""Orders of reads: the optimum is that of all orders, HEBF and others are held to it."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.runtime.schedule.hebf import Job, by_id, hebf, johnson, optimum, simulate

_seconds = st.integers(0, 9).map(float)


@st.composite
def _jobs(draw, experts=3, planes=3, most=6):
    jobs = []
    for expert in range(draw(st.integers(1, experts))):
        tokens = 8
        for plane in range(draw(st.integers(1, planes))):
            tokens = draw(st.integers(1, tokens))
            jobs.append(Job(expert, plane, tokens, draw(_seconds), draw(_seconds)))
    return jobs[:most]


def _allowed(order):
    return all(
        [job.plane for job in order if job.expert == expert]
        == sorted(job.plane for job in order if job.expert == expert)
        for expert in {job.expert for job in order}
    )


@given(_jobs())
def test_the_optimum_is_the_least_of_all_orders(jobs):
    least = min(simulate(order).makespan for order in permutations(jobs) if _allowed(order))
    assert simulate(optimum(jobs)).makespan == pytest.approx(least)


@given(_jobs(experts=4, planes=4, most=16))
def test_every_order_is_one_of_all_jobs_and_none_beats_the_optimum(jobs):
    best = simulate(optimum(jobs)).makespan
    for rule in (hebf, by_id, optimum):
        order = rule(jobs)
        assert sorted(map(hash, order)) == sorted(map(hash, jobs))
        assert _allowed(order)
        assert simulate(order).makespan >= best - 1e-9
    assert simulate(johnson(jobs), chains=False).makespan <= best + 1e-9


def test_hebf_takes_the_hottest_head():
    jobs = [
        Job(0, 0, 2, 1, 1),
        Job(0, 1, 1, 1, 1),
        Job(1, 0, 5, 1, 1),
        Job(1, 1, 3, 1, 1),
        Job(2, 0, 2, 1, 1),
    ]
    assert [(job.expert, job.plane) for job in hebf(jobs)] == [(1, 0), (1, 1), (0, 0), (2, 0), (0, 1)]


def test_waits_are_counted():
    outcome = simulate([Job(0, 0, 1, 2.0, 1.0), Job(1, 0, 1, 2.0, 3.0)])
    assert (outcome.makespan, outcome.bubble) == (7.0, 3.0)


def test_a_plane_before_a_lower_one_is_refused():
    with pytest.raises(BadInput, match="plane 0 of expert 3"):
        simulate([Job(3, 1, 1, 1.0, 1.0), Job(3, 0, 1, 1.0, 1.0)])
