"""ondevice data"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, console, notes, print_json

app = typer.Typer(help="The data sets that the project makes.", no_args_is_help=True)


@app.command("list")
def listing(as_json: AsJson = False) -> None:
    """List all data sets."""
    from rich.table import Table

    from ondevice.verbs.data import data

    rows = data()
    if as_json:
        print_json(
            [{"name": it.name, "title": it.title, "kind": it.kind, "built": built} for it, built in rows]
        )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("data set", "kind", "", "title"):
        table.add_column(head)
    for entry, built in rows:
        table.add_row(entry.name, entry.kind, "" if built else "[dim]not built[/]", entry.title)
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A data set's name.")],
    out: Annotated[Path, typer.Option(help="The picture to write: .png, .jpg or .webp.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    count: Annotated[int, typer.Option(help="How many samples.")] = 24,
    seed: Annotated[int, typer.Option(help="Others for every seed.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw samples on one sheet; of sounds, write the first few as WAV files too."""
    from ondevice.verbs.data import show as draw

    with notes.status(f"  making {name}"):
        shown = draw(name, out, split=split, count=count, seed=seed)
    if as_json:
        print_json(shown.to_json())
        return
    for file in shown.files:
        console.print(f"  {file}", highlight=False)
