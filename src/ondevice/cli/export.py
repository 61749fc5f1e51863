"""ondevice export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json


def export(
    artifact: Annotated[Path, typer.Argument(help="A folder that `ondevice fit` made.")],
    to: Annotated[str, typer.Option(help="onnx, mlx or web.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(help="For web: the npm package's folder, copied so that no network is needed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an artifact for another engine."""
    from ondevice.verbs.export import export as write

    result = write(artifact, to, out=out, overwrite=overwrite, onnxruntime_web=onnxruntime_web)
    if as_json:
        print_json(result.to_json())
        return
    for name, size in result.files.items():
        console.print(f"  {amount(size):>10}  {result.folder / name}", highlight=False, markup=False)
    for note in result.notes:
        notes.print(f"  {note}", highlight=False, markup=False)
