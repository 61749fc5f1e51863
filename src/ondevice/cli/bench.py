"""ondevice bench"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json, stages


def bench(
    artifact: Annotated[Path, typer.Argument(help="A folder that `ondevice fit` made.")],
    against: Annotated[str, typer.Option(help="Comma-separated: torch,onnxruntime,openvino,mlx.")] = "",
    backends: Annotated[str, typer.Option(help="What runs the artifact, comma-separated.")] = "native",
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1,2",
    tokens: Annotated[int, typer.Option(help="Tokens of a text.")] = 128,
    batch: Annotated[int, typer.Option(help="Texts a call.")] = 1,
    repeats: Annotated[int, typer.Option(help="Rounds; each engine has one call in each.")] = 31,
    original: Annotated[
        str | None, typer.Option(help="The model that the peers run, if it has moved.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Texts to judge with, as for fit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time an artifact beside other engines, in turn, and compare sizes and quality."""
    from ondevice.errors import BadInput
    from ondevice.verbs.bench import bench as compare

    try:
        numbers = [int(each) for each in threads.split(",")]
    except ValueError:
        raise BadInput(f"threads {threads!r} is no list of numbers; write --threads 1,2") from None
    with stages() as progress:
        result = compare(
            artifact,
            [name for name in against.split(",") if name],
            original=original,
            backends=[name for name in backends.split(",") if name],
            threads=numbers,
            tokens=tokens,
            batch=batch,
            repeats=repeats,
            data=data,
            progress=progress,
        )
    document = result.to_json()
    if as_json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    heads = (
        "engine",
        "variant",
        "threads",
        "ms (min-max)",
        "to ours",
        "storage",
        document["metric"],
        "memory",
    )
    for head in heads:
        table.add_column(head, justify="left" if head in ("engine", "variant") else "right")
    for row in document["rows"]:
        time, ratio, quality = row["latency"], row["ratio"], row["quality"]
        low, high = ratio["interval"] or (ratio["median"], ratio["median"])
        table.add_row(
            row["engine"],
            row["variant"],
            str(row["threads"]),
            f"{time['median_ms']:.2f} ({time['min_ms']:.2f}-{time['max_ms']:.2f})",
            f"{ratio['median']:.2f}x ({low:.2f}-{high:.2f})",
            amount(row["storage_bytes"]["value"]),
            f"{quality['value']:.4f}" if quality else "",
            amount(row["memory_bytes"]["value"]),
        )
    console.print(table)
    for skipped in document["skipped"]:
        notes.print(
            f"  {skipped['engine']} {skipped['variant']} skipped: {skipped['reason']}", highlight=False
        )
