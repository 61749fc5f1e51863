"""ondevice systems"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ondevice.cli.output import AsJson, console, notes, print_json

app = typer.Typer(
    help="The published systems: which work here, and their proofs.", invoke_without_command=True
)


@app.callback()
def listing(context: typer.Context, as_json: AsJson = False) -> None:
    """List all systems with their status."""
    if context.invoked_subcommand is not None:
        return
    from collections import Counter

    from rich.table import Table

    from ondevice.systems.registry import Status
    from ondevice.verbs.systems import systems

    entries = systems()
    if as_json:
        print_json([{"slug": it.slug, "title": it.title, "family": it.family, "kind": it.kind, "status": status}
                    for it, status in entries])  # fmt: skip
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("system", "status", "family", "title"):
        table.add_column(head)
    colour: dict[Status, str] = {"works": "green", "below": "red", "unproven": "yellow", "not built": "dim"}
    for it, status in entries:
        table.add_row(it.slug, f"[{colour[status]}]{status}[/]", it.family, it.title)
    console.print(table)
    counts = Counter(status for _, status in entries)
    notes.print("  " + ", ".join(f"{counts[status]} {status}" for status in colour), highlight=False)


@app.command()
def run(
    slug: Annotated[str | None, typer.Argument(help="A system's slug.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every system that is built, at full scale.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="At full scale.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the result in docs/systems.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the proof of a system."""
    from ondevice.errors import BadInput
    from ondevice.systems import registry
    from ondevice.verbs.systems import prove

    if (slug is None) == (not everything):
        raise BadInput("name one system, or pass --all")
    proofs = []
    for name in registry.built() if everything else [slug or ""]:
        with notes.status(f"  proving {name}"):
            proofs.append(prove(name, full=full or everything, record=record or everything))
        if not as_json:
            _print(proofs[-1])
    if as_json:
        documents = [proof.to_json() for proof in proofs]
        print_json(documents if everything else documents[0])
    if any(proof.evidence.verdict != "holds" for proof in proofs):
        raise typer.Exit(1)


def _print(proof: Any) -> None:
    from rich.table import Table

    system, evidence = proof.system, proof.evidence
    console.print(f"[bold]{system.title}[/] ({system.slug})", highlight=False)
    console.print(f"  claim: {system.claim}", highlight=False, markup=False)
    if system.paper_figure:
        console.print(f"  paper: {system.paper_figure}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("  metric", "baseline", "ours", "bar", "", ""):
        table.add_column(head)
    for each in evidence.comparisons:
        baseline = "" if each.baseline is None else f"{each.baseline.median:.5g} {each.unit}"
        bar = f"{each.bar.relation} {each.bar.op} {each.bar.value:g}"
        holds = "[green]holds[/]" if each.holds else "[red]below[/]"
        table.add_row(
            f"  {each.metric}", baseline, f"{each.ours.median:.5g} {each.unit}", bar, each.kind, holds
        )
    console.print(table)
    for note in evidence.notes:
        console.print(f"  {note}", highlight=False, markup=False, style="dim")
    console.print(f"  verdict: {evidence.verdict}\n")
