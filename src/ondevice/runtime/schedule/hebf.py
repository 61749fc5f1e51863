"""In which order a layer's planes are read, so that products wait for reads as little as possible.

Knows jobs: a plane of an expert takes so long to read and, once it is there, so long to multiply for the tokens that
need it. Knows nothing of files or kernels. The disk serves one read after another, products follow in its order; planes
of an expert come lowest first. That is a flow shop of two machines whose jobs form chains.

Sources: hottest expert's bits first (HEBF), D2MoE; Johnson 1954, "Optimal two- and three-stage production schedules";
chains: Kurisu 1976 and Sidney 1979, by whose theorem composite jobs merge as single ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from ondevice.errors import BadInput


@dataclass(frozen=True)
class Job:
    """A plane of an expert. read, compute: seconds. tokens: of the batch that need it."""

    expert: int
    plane: int
    tokens: int
    read: float
    compute: float


@dataclass(frozen=True)
class Outcome:
    """Of an order, seconds. makespan: until the last product ends. bubble: that products waited for reads."""

    makespan: float
    bubble: float


Order = Callable[[Sequence[Job]], list[Job]]


def hebf(jobs: Sequence[Job]) -> list[Job]:
    """Of the lowest planes that are still to be read, always the one that most tokens need."""
    queues = list(_chains(jobs).values())
    order = []
    while queues:
        hottest = max(queues, key=lambda queue: (queue[0].tokens, -queue[0].expert))
        order.append(hottest.pop(0))
        if not hottest:
            queues.remove(hottest)
    return order


def by_id(jobs: Sequence[Job]) -> list[Job]:
    """Expert after expert, each with all its planes."""
    return [job for chain in _chains(jobs).values() for job in chain]


def johnson(jobs: Sequence[Job]) -> list[Job]:
    """Johnson's rule: the least makespan where planes could come in any order, so a lower bound."""
    early = sorted((job for job in jobs if job.read <= job.compute), key=lambda job: job.read)
    late = sorted((job for job in jobs if job.read > job.compute), key=lambda job: -job.compute)
    return early + late


def optimum(jobs: Sequence[Job]) -> list[Job]:
    """The least makespan of all orders that keep each expert's planes in theirs."""
    composites = [each for chain in _chains(jobs).values() for each in _composites(chain)]
    composites.sort(key=lambda each: each.rank)  # stable: composites of a chain are in rank already
    return [job for each in composites for job in each.jobs]


def simulate(order: Sequence[Job], *, chains: bool = True) -> Outcome:
    """What an order comes to when both lanes start together. Raises BadInput where a plane comes before a lower one,
    unless `chains` is false."""
    seen: dict[int, int] = {}
    read = done = bubble = 0.0
    for job in order:
        if chains and job.plane <= seen.get(job.expert, -1):
            raise BadInput(f"plane {job.plane} of expert {job.expert} is read after a higher one")
        seen[job.expert] = job.plane
        read += job.read
        bubble += max(0.0, read - done)
        done = max(read, done) + job.compute
    return Outcome(done, bubble)


@dataclass(frozen=True)
class _Composite:
    """Jobs that an optimal order keeps together. wait: how far products are behind reads at most within it, if both
    begin together; gain: by how much products take longer than reads."""

    jobs: tuple[Job, ...]
    wait: float
    gain: float

    @property
    def rank(self) -> tuple[int, float]:
        """Johnson's order: those that gain by their waits, then the others by how late they may be, latest last."""
        return (0, self.wait) if self.gain >= 0 else (1, -(self.wait + self.gain))

    def then(self, other: _Composite) -> _Composite:
        wait = max(self.wait, other.wait - self.gain)
        return _Composite(self.jobs + other.jobs, wait, self.gain + other.gain)


def _composites(chain: Sequence[Job]) -> list[_Composite]:
    """A chain as composite jobs in the order of their ranks: one that would rather come first joins the one before."""
    found: list[_Composite] = []
    for job in chain:
        found.append(_Composite((job,), job.read, job.compute - job.read))
        while len(found) > 1 and found[-1].rank < found[-2].rank:
            last = found.pop()
            found.append(found.pop().then(last))
    return found


def _chains(jobs: Sequence[Job]) -> dict[int, list[Job]]:
    """The jobs of each expert, lowest plane first, experts by number."""
    ordered = sorted(jobs, key=lambda job: (job.expert, job.plane))
    return {expert: list(chain) for expert, chain in groupby(ordered, key=lambda job: job.expert)}
