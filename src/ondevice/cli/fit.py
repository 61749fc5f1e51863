"""ondevice fit"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json, stages


def fit(
    model: Annotated[
        str, typer.Argument(help="A folder, minilm, a name of the zoo or of the hub (owner/name).")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the artifact.")] = None,
    device: Annotated[str, typer.Option(help="A profile's name or file; see `ondevice devices`.")] = "here",
    storage: Annotated[str | None, typer.Option(help="Limit on disk, as in 16MB or 16MiB.")] = None,
    memory: Annotated[str | None, typer.Option(help="Limit on memory while running.")] = None,
    latency: Annotated[
        str | None, typer.Option(help="Limit there for 128 tokens, or a language model's next one.")
    ] = None,
    energy: Annotated[str | None, typer.Option(help="Limit for the same, as in 0.2J.")] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            help="Least cosine or agreement with the original, or its perplexity over the fitted one's."
        ),
    ] = None,
    with_: Annotated[
        list[str] | None, typer.Option("--with", help="A technique, as in lowrank:rank=0.5; repeatable.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Texts: .jsonl, a folder, or a data set's name.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    seed: Annotated[int, typer.Option(help="Of every random draw.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a model fit a device and a budget, and say what was lost."""
    from ondevice.devices.budget import Budget
    from ondevice.verbs.fit import fit as fit_model

    budget = Budget(storage=storage, memory=memory, latency=latency, energy=energy, quality=quality)
    place = out or Path(f"fitted-{Path(model).name}")
    with stages() as progress:
        result = fit_model(
            model, out=place, device=device, budget=budget, techniques=with_ or (), data=data,
            revision=revision, overwrite=overwrite, seed=seed, progress=progress,
        )  # fmt: skip
    document = result.to_json()
    if as_json:
        print_json(document)
        return
    _print(document)
    notes.print(f"\n  {place}/   report: {place}/report.html")
    if "cosine" in document["quality"]:
        notes.print(f'  try: ondevice app search DOCS "how do I …" --model {place}', highlight=False)
    if "perplexity" in document["quality"]:
        notes.print(f'  try: ondevice run {place} --prompt "…", or ondevice serve {place}', highlight=False)


def _print(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("fitted", justify="right")
    table.add_column("", style="dim")
    table.add_row(
        "storage", amount(document["original_storage_bytes"]), amount(document["storage_bytes"]), "counted"
    )
    for name, metric in document["quality"].items():
        low, high = metric["difference_interval"]
        about = f"measured, n={metric['count']}, difference {low:+.4f} to {high:+.4f}"
        table.add_row(name, f"{metric['original']:.4f}", f"{metric['fitted']:.4f}", about)
    latency = {entry["where"]: entry for entry in document["latency"]}
    for place in dict.fromkeys(where.rsplit(",", 1)[0] for where in latency):
        before, after = latency[f"{place}, original"], latency[f"{place}, fitted"]
        about = f"measured, {after['n']} runs" if after["kind"] == "measured" else "modelled"
        table.add_row(
            f"latency {place}, {document['inference']}",
            f"{before['median_ms']:.3g} ms",
            f"{after['median_ms']:.3g} ms",
            about,
        )
    table.add_row("memory while running", "", amount(document["memory_bytes"]), "measured here")
    console.print(table)
