"""ondevice report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, console, print_json


def report(
    folder: Annotated[Path, typer.Argument(help="The folder of `ondevice bench campaign`.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder unless told.")] = None,
    as_json: AsJson = False,
) -> None:
    """One HTML page of what a campaign measured."""
    from ondevice.verbs.campaign import report as write

    page = write(folder, out)
    if as_json:
        print_json({"report": str(page)})
    else:
        console.print(f"  report: {page}", highlight=False)
