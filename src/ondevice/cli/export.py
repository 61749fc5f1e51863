"""ondevice export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder that `ondevice fit` made; for gguf also a language model's folder, or its name in the zoo."
        ),
    ],
    to: Annotated[str, typer.Option(help="onnx, mlx, web or gguf.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(help="For web: the npm package's folder, copied so that no network is needed."),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            help="For gguf: F32, F16, Q8_0 or Q4_0; an artifact's own codes unless given, else F16."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model for another engine."""
    from ondevice.verbs.export import export as write

    result = write(model, to, out=out, overwrite=overwrite, onnxruntime_web=onnxruntime_web, type=type)
    if as_json:
        print_json(result.to_json())
        return
    for name, size in result.files.items():
        console.print(f"  {amount(size):>10}  {result.folder / name}", highlight=False, markup=False)
    for note in result.notes:
        notes.print(f"  {note}", highlight=False, markup=False)
