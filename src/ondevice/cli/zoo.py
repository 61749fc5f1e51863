"""ondevice zoo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ondevice.cli.output import AsJson, console, print_json, stages

app = typer.Typer(help="The small models that this project trains.", no_args_is_help=True)


@app.command("list")
def listing(as_json: AsJson = False) -> None:
    """List all models, where they are and what they reach."""
    from rich.table import Table

    from ondevice.verbs.zoo import zoo

    rows = zoo()
    if as_json:
        print_json([row.to_json() for row in rows])
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("model", "built", "held out", "title"):
        table.add_column(head)
    for row in rows:
        table.add_row(row.name, row.record.get("scale", "[dim]not built[/]"), _metrics(row.record), row.title)
    console.print(table)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    quick: Annotated[bool, typer.Option("--quick", help="A minute on two cores, and worse.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights and order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A folder instead of the cache.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Build it again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by its recipe."""
    from ondevice.verbs.zoo import zoo_build

    with stages() as tell:
        model = zoo_build(name, quick=quick, seed=seed, out=out, overwrite=overwrite, progress=tell)
    if as_json:
        print_json({"name": name, "folder": str(model.folder)} | model.record)
        return
    console.print(f"  {model.folder}   {_metrics(model.record)}", highlight=False)


@app.command()
def pack(
    name: Annotated[str, typer.Argument(help="A model that is built.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
) -> None:
    """Write a model at 8 bits a weight, to ship it."""
    from ondevice.verbs.zoo import zoo_pack

    zoo_pack(name, out)
    console.print(f"  {out}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model's name.")], as_json: AsJson = False) -> None:
    """What a finished model is, what it learned from and what it reaches."""
    import json

    from ondevice.verbs.zoo import zoo_show

    document = zoo_show(name)
    if as_json:
        print_json(document)
        return
    console.print_json(json.dumps(document))


def _metrics(record: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in record.get("metrics", {}).items())
