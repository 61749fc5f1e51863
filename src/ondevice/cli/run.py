"""ondevice run"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, Threads, console, print_json


def run(
    artifact: Annotated[Path, typer.Argument(help="A folder that `ondevice fit` made.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, one a line is read from standard input.")
    ] = None,
    backend: Annotated[str, typer.Option(help="native, torch, onnxruntime or mlx.")] = "native",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Embed or classify texts with a finished artifact."""
    from ondevice.verbs.run import run as run_artifact

    given = texts or [line for line in sys.stdin.read().splitlines() if line.strip()]
    result = run_artifact(artifact, given, backend=backend, threads=threads)
    if as_json:
        print_json(result.to_json())
    elif result.embeddings is None:
        assert result.probabilities is not None
        for text, row in zip(result.texts, result.probabilities, strict=True):
            best = int(row.argmax())
            console.print(f"{result.labels[best]}  {row[best]:.3f}  {text}", highlight=False, markup=False)
    else:
        vectors = result.embeddings
        for number, (text, row) in enumerate(zip(result.texts, vectors, strict=True)):
            shown = " ".join(f"{value:+.4f}" for value in row[:6])
            near = "" if number == 0 else f"  cosine to the first {float(row @ vectors[0]):.4f}"
            console.print(
                f"[{shown} … {len(row)}]{near}  {text}", highlight=False, markup=False, soft_wrap=True
            )
