"""ondevice app NAME"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ondevice.cli.output import AsJson, Threads, console, notes, print_json

app = typer.Typer(no_args_is_help=True, help="Applications on top of a fitted model.")


@app.callback()
def root() -> None:
    """Applications on top of a fitted model."""


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="Folder of .txt, .md, .rst and .py files.")],
    query: Annotated[str, typer.Argument(help="What to look for.")],
    model: Annotated[Path, typer.Option(help="An embedding artifact.")],
    k: Annotated[int, typer.Option("-k", help="How many passages.")] = 5,
    rerank: Annotated[
        Path | None, typer.Option(help="A model that reads the query with each of the nearest passages.")
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(help="Share of the reranker's choice to keep while passages leave it early, e.g. 0.99."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Search a folder by meaning; its index is kept and follows the folder."""
    from rich.progress import Progress

    from ondevice.verbs.search import search as search_folder

    with Progress(console=notes, transient=True) as bar:
        task = bar.add_task("reading the folder", total=None)
        result = search_folder(
            folder, query, model=model, k=k, rerank=rerank, precision=precision, threads=threads,
            progress=lambda done, total: bar.update(task, description="indexing", completed=done, total=total),
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
        return
    done = result.refresh
    notes.print(
        f"  {done.passages} passages of {done.files} files; read anew: {done.embedded}", highlight=False
    )
    for message in (done.notice, *done.skipped):
        if message:
            notes.print(f"  {message}", highlight=False, markup=False)
    for hit in result.hits:
        first = " ".join(hit.text.split())[:160]
        console.print(
            f"{hit.score:.3f}  {hit.path}:{hit.line}", highlight=False, markup=False, soft_wrap=True
        )
        console.print(f"       {first}", highlight=False, markup=False, soft_wrap=True, style="dim")
