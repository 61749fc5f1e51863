"""ondevice bench network, and ondevice run of an ONNX file"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json, stages


def network(
    file: Annotated[Path | None, typer.Argument(help="An ONNX file with one input.")] = None,
    random: Annotated[
        str | None, typer.Option(help="Instead: resnet-18 or mobilenet-v2, random weights.")
    ] = None,
    against: Annotated[str, typer.Option(help="Comma-separated: onnxruntime,openvino,mnn.")] = "",
    shape: Annotated[str | None, typer.Option(help="Of the input, where the file leaves it open.")] = None,
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1,2",
    repeats: Annotated[int, typer.Option(help="Rounds, one run of each engine in each.")] = 31,
    explain: Annotated[
        bool, typer.Option(help="Only print the scheme and backend of each operator, and memory.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Time a convolutional network on the own engine, beside others; or see how each operator runs."""
    from ondevice.errors import BadInput
    from ondevice.verbs.bench_network import bench_network, explain_network

    try:
        sizes = None if shape is None else [int(each) for each in shape.split(",")]
        counts = [int(each) for each in threads.split(",")]
    except ValueError:
        raise BadInput("sizes and threads are lists of numbers: --shape 1,3,224,224 --threads 1,2") from None
    if explain:
        if file is None:
            raise BadInput("name an ONNX file to explain")
        document = explain_network(file, shape=sizes, threads=counts[0]).to_json()
        if as_json:
            print_json(document)
        else:
            _print_explained(document)
        return
    with stages() as progress:
        names = [name for name in against.split(",") if name]
        result = bench_network(
            file, names, random=random, shape=sizes, threads=counts, repeats=repeats, progress=progress
        )
    if as_json:
        print_json(result.to_json())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("engine", "threads", "ms (min-max)", "to ours", "memory", "difference"):
        table.add_column(head, justify="left" if head == "engine" else "right")
    for row in result.rows:
        time = row.seconds
        spread = f"{time.median * 1e3:.2f} ({time.min * 1e3:.2f}-{time.max * 1e3:.2f})"
        low, high = row.interval or (row.ratio, row.ratio)
        ratio = f"{row.ratio:.2f}x ({low:.2f}-{high:.2f})"
        cells = (row.engine, str(row.threads), spread, ratio, amount(row.memory), f"{row.difference:.1e}")
        table.add_row(*cells)
    console.print(table)
    notes.print(
        "  float32, measured here; difference: of the output, over its largest value", highlight=False
    )
    if elsewhere := max(row.elsewhere for row in result.rows):
        notes.print(
            f"  native: {elsewhere} operators ran on ONNX Runtime; --explain names them", highlight=False
        )
    for skipped in result.skipped:
        notes.print(f"  {skipped['engine']} skipped: {skipped['reason']}", highlight=False)


def run_pictures(model: str, files: list[str], threads: int | None, as_json: bool) -> None:
    """Outputs of a network for arrays in .npy files, float32 of its input's shape."""
    from ondevice.verbs.run_network import run_network

    results = run_network(model, files, threads=threads)
    if as_json:
        print_json([{name: values.tolist() for name, values in each.items()} for each in results])
        return
    for file, outputs in zip(files, results, strict=True):
        for name, values in outputs.items():
            flat = values.reshape(-1)
            largest = ", ".join(f"{flat[i]:.4g} at {i}" for i in (-flat).argsort()[:5])
            shape = "x".join(map(str, values.shape))
            console.print(f"{file}  {name} {shape}  largest: {largest}", highlight=False, soft_wrap=True)


def _print_explained(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("node", "operator", "backend", "scheme", "modelled", "next best"):
        table.add_column(head)
    for it in document["operators"]:
        modelled = "" if it["modelled_seconds"] is None else f"{it['modelled_seconds'] * 1e6:.0f} µs"
        others = [(name, seconds) for name, seconds in it["considered"].items() if name != it["scheme"]]
        best = f"{others[0][0]} {others[0][1] * 1e6:.0f} µs" if others else ""
        table.add_row(it["name"], it["operator"], it["backend"], it["scheme"] or "", modelled, best)
    console.print(table)
    arena, live, results = (amount(document[f"{name}_bytes"]) for name in ("arena", "live", "results"))
    notes.print(
        f"  memory for results, counted: {arena}; live at the worst step {live}, all results {results}",
        highlight=False,
    )
