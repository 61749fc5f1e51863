"""systems: the published systems, which of them work here, and their proofs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ondevice.measure.compare import Evidence
from ondevice.systems import registry, render
from ondevice.systems.registry import System


@dataclass(frozen=True)
class Proof:
    """One run of a system's recipe."""

    system: System
    evidence: Evidence

    def to_json(self) -> dict[str, Any]:
        """The verdict and its comparisons; baselines and ours with their spread."""
        return self.evidence.to_json(self.system.slug)


def systems() -> list[tuple[System, registry.Status]]:
    """Every published system in the catalogue's order, with its status."""
    return [(entry, registry.status(slug)) for slug, entry in registry.catalogue().items()]


def prove(slug: str, *, full: bool = False, record: bool = False) -> Proof:
    """Run the recipe of a system, at the fast or the full scale.

    record: keep the result in docs/systems and render its page, in a checkout of the repository.
    Raises NotBuilt where there is no recipe.
    """
    scale = registry.FULL if full else registry.FAST
    proof = Proof(registry.find(slug), registry.run(slug, scale))
    if record:
        registry.record(slug, proof.evidence, scale)
        render.write_pages()
    return proof
