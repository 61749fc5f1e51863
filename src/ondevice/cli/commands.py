"""All commands, each in its own file."""

from __future__ import annotations

import typer

from ondevice.cli import (
    advise,
    bench,
    data,
    devices,
    doctor,
    export,
    fit,
    report,
    run,
    seal,
    serve,
    systems,
    zoo,
)
from ondevice.cli import app as applications

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fit machine-learning models to devices, and prove what was gained and lost.",
)


@app.callback()
def root(version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from ondevice import __version__

        typer.echo(f"ondevice {__version__}")
        raise typer.Exit


app.command()(fit.fit)
app.command()(run.run)
app.command()(serve.serve)
app.command()(seal.seal)
app.command()(export.export)
app.command()(report.report)
app.command()(advise.advise)
app.command()(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(devices.app, name="devices")
app.add_typer(systems.app, name="systems")
app.add_typer(zoo.app, name="zoo")
app.add_typer(data.app, name="data")
app.add_typer(applications.app, name="app")
