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


@app.command()
def simulate(
    platform: Annotated[
        str, typer.Argument(help="cambricon-s, -m, -l, or a .toml file of a flash platform.")
    ],
    model: Annotated[str, typer.Option(help="A published shape, or a config.json of Hugging Face.")],
    context: Annotated[int, typer.Option(help="Tokens that are read already.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """How fast a decoder would write on flash that computes: modelled."""
    from ondevice.verbs.simulate import simulate as ask

    made = ask(platform, model, context=context)
    if as_json:
        print_json(made.to_json())
        return
    time = made.time
    console.print(
        f"{made.model} on {made.platform}, {context} tokens of context: {1 / time.seconds:.2f} tokens/s (modelled)",
        highlight=False,
    )
    notes.print(
        f"  weights {time.weights * 1e3:.1f} ms ({time.rates.alpha:.0%} multiplied in the flash, tiles of "
        f"{time.tile.height:.0f} x {time.tile.width:.0f} a channel), cache {time.cache * 1e3:.1f} ms, attention "
        f"{time.attention * 1e3:.1f} ms; {made.offloading / time.seconds:.1f} times as fast as reading weights from "
        f"storage of {made.storage_bandwidth / 1e9:g} GB/s",
        highlight=False,
    )
