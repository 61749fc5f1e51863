"""What `ondevice run --speculate auto --dry-run` prints: trees of guesses, what they take, what they should gain."""

from __future__ import annotations

from rich.table import Table

from ondevice.cli.output import console, notes, print_json
from ondevice.errors import BadInput
from ondevice.measure.amounts import amount

_MOST = 12  # rows of the table


def dry_runs(
    model: str, draft: str | None, memory: str | None, context: int | None, cache: str,
    threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """The trees for which no other is as fast in as little memory, and the lower bound of each gain."""
    from ondevice.runtime.decode.memory_model import frontier
    from ondevice.verbs.run import open_within
    from ondevice.verbs.speculate import find_heads, plan_trees

    if draft is None:
        raise BadInput("--dry-run shows plans of speculation; add --speculate auto")
    opening = {"threads": threads, "context": context, "cache": cache}
    with open_within(model, memory, **opening, draft=draft) as session:  # type: ignore[arg-type]
        decoder = session.engine.decoder
        heads = find_heads(decoder.shape.hidden, draft, model)
        if heads is None:
            raise BadInput(
                "there are no heads for this model, and looking guesses up takes no memory to plan"
            )
        edge = frontier(plan_trees(session, heads))
    if as_json:
        print_json(
            [
                {
                    "generation_bytes": plan.memory.total, "nodes": len(plan.paths), "heads": plan.heads,
                    "tokens_per_pass": plan.tokens, "speedup": plan.speedup,
                }
                for plan in edge
            ]
        )  # fmt: skip
        return
    table = Table("memory beside weights", "tree", "heads", "tokens a pass", "speed-up")
    step = max(1, -(-len(edge) // _MOST))
    for plan in [*edge[:-1][::step], edge[-1]]:
        nodes = f"{len(plan.paths)} nodes" if plan.paths else "none"
        table.add_row(
            amount(plan.memory.total, "bytes"),
            nodes,
            str(plan.heads),
            f"{plan.tokens:.2f}",
            f"{plan.speedup:.2f}",
        )
    console.print(table)
    notes.print(
        f"  modelled: passes were timed here, guesses are right as often as when the heads were made; context: "
        f"{decoder.context} tokens",
        style="dim", highlight=False,
    )  # fmt: skip
