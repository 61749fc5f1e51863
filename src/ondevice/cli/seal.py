"""ondevice seal"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import amount, console


def seal(
    artifact: Annotated[Path, typer.Argument(help="A folder that `ondevice fit` made.")],
    key_file: Annotated[
        Path, typer.Option(help="At least 32 random bytes; who runs the copy needs them too.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Encrypt the weights of an artifact: `ondevice run OUT --key-file KEY` decrypts them as it reads."""
    from ondevice.verbs.seal import seal as write

    made = write(artifact, key_file, out=out, overwrite=overwrite)
    console.print(f"  {amount(made.storage_bytes):>10}  {made.folder}", highlight=False, markup=False)
