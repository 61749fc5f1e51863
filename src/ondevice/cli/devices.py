"""ondevice devices"""

from __future__ import annotations

from typing import Annotated

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json

app = typer.Typer(help="The devices that a model can be fitted to.", invoke_without_command=True)


@app.callback()
def listing(context: typer.Context, as_json: AsJson = False) -> None:
    """List the profiles; `devices show NAME` gives every figure with its source."""
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from ondevice.devices import profile

    devices = [profile.load(name) for name in profile.names()]
    if as_json:
        print_json([{"name": it.name, "title": it.title, "kind": it.kind,
                     "memory_limit_bytes": it.memory_limit.value} for it in devices])  # fmt: skip
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("name", "", "kind", "memory for an app"):
        table.add_column(head)
    for it in devices:
        table.add_row(it.name, it.title, it.kind, amount(it.memory_limit.value))
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A profile's name or file.")], as_json: AsJson = False
) -> None:
    """Every figure of a device with its source."""
    import tomllib

    from ondevice.devices import profile

    text = profile.load(name).to_toml()
    if as_json:
        print_json(tomllib.loads(text))
    else:
        typer.echo(text)


@app.command()
def measure(as_json: AsJson = False) -> None:
    """Measure this machine into the device `here`."""
    import tomllib

    from ondevice.measure.here import measure_here

    notes.print("  measuring this machine")
    text = measure_here().to_toml()
    if as_json:
        print_json(tomllib.loads(text))
    else:
        typer.echo(text)
