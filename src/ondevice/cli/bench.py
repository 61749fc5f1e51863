"""ondevice bench"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ondevice.cli.network import network
from ondevice.cli.output import AsJson, Threads, amount, console, notes, print_json, stages


class _ModelUnlessNamed(TyperGroup):
    """`ondevice bench MODEL …` is `ondevice bench model MODEL …`, and of an ONNX file `bench network`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["network" if args[0].endswith(".onnx") else "model", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ModelUnlessNamed, no_args_is_help=True, help="Measure models, beside other engines.")
app.command()(network)


@app.command("model")
def bench(
    artifact: Annotated[
        Path | None, typer.Argument(help="A folder that `ondevice fit` made, or a model that writes.")
    ] = None,
    random: Annotated[
        str | None, typer.Option(help="Instead: a published shape with random weights, as llama-3.2-1b.")
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="Comma-separated: torch,onnxruntime,openvino,mlx; writing: llama.cpp,openvino,torch."
        ),
    ] = "",
    backends: Annotated[str, typer.Option(help="What runs an encoder, comma-separated.")] = "native",
    threads: Annotated[str, typer.Option(help="Comma-separated numbers of threads.")] = "1,2",
    prompt: Annotated[int, typer.Option(help="Tokens that a model that writes reads first.")] = 512,
    tokens: Annotated[int, typer.Option(help="Tokens of an encoder's text, or to write.")] = 128,
    bits: Annotated[
        int, typer.Option(help="Of random weights, and of the GGUF file that peers read: 4, 8 or 16.")
    ] = 4,
    batch: Annotated[int, typer.Option(help="Texts a call of an encoder.")] = 1,
    repeats: Annotated[
        int | None, typer.Option(help="Rounds, one call of each engine in each; 31, or 5 where it writes.")
    ] = None,
    original: Annotated[
        str | None, typer.Option(help="The model that the peers run, if it has moved.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="This machine's profile, to model energy from.")] = None,
    data: Annotated[str | None, typer.Option(help="Texts to judge with, as for fit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time a model beside other engines, in turn."""
    from ondevice.devices.profile import load
    from ondevice.errors import BadInput
    from ondevice.verbs.bench import bench as compare
    from ondevice.verbs.bench_decoder import bench_decoder
    from ondevice.verbs.open import language_folder

    try:
        numbers = [int(each) for each in threads.split(",")]
    except ValueError:
        raise BadInput(f"threads {threads!r} is no list of numbers; write --threads 1,2") from None
    names = [name for name in against.split(",") if name]
    if artifact is None and random is None:
        raise BadInput("name a model, or a published shape: --random llama-3.2-1b")
    writes = artifact is None or artifact.suffix == ".gguf" or language_folder(artifact) is not None
    with stages() as progress:
        if artifact is None or writes:
            document = bench_decoder(
                artifact, names, random=random, bits=bits, prompt=prompt, tokens=tokens, threads=numbers,
                repeats=repeats or 5, device=load(device) if device else None, progress=progress,
            ).to_json()  # fmt: skip
        else:
            document = compare(
                artifact, names, original=original, threads=numbers, tokens=tokens, batch=batch,
                backends=[name for name in backends.split(",") if name],
                repeats=repeats or 31, data=data, progress=progress,
            ).to_json()  # fmt: skip
    if as_json:
        print_json(document)
    elif writes:
        _print_decoders(document)
    else:
        _print(document)


@app.command()
def campaign(
    file: Annotated[
        Path, typer.Argument(help="A TOML file: [matrix], [settings], [[cell]], timeout, memory.")
    ],
    out: Annotated[
        Path, typer.Option(help="The folder that keeps the rows; what is there is not measured again.")
    ],
    device: Annotated[str | None, typer.Option(help="This machine's profile, to model energy from.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure many models, engines and settings, a process each; `ondevice report` shows the rows."""
    from ondevice.verbs.campaign import campaign as run

    with stages() as progress:
        rows = run(file, out, device=device, progress=progress)
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("cell", "", "prefill", "decode, tokens/s", "memory"):
        table.add_column(head)
    for row in rows:
        figures = row.get("figures", {})
        cells = [
            f"{figures[name]['median']:.1f}" if name in figures else "" for name in ("prefill", "decode")
        ]
        memory = amount(figures["memory"]["median"]) if figures else row["error"][:60]
        table.add_row(row["key"], row["status"], *cells, memory)
    console.print(table)
    notes.print(f"  rows: {out}   page: ondevice report {out}", highlight=False)


@app.command()
def sustained(
    model: Annotated[str, typer.Argument(help="A published shape (random weights), or a model that writes.")],
    device: Annotated[str, typer.Option(help="A profile with a thermal network.")] = "iphone-a17pro",
    questions: Annotated[int, typer.Option(help="Asked one after the other.")] = 20,
    tokens: Annotated[int, typer.Option(help="Written for each.")] = 64,
    rest: Annotated[
        str, typer.Option(help="Seconds between questions, comma-separated: a run for each.")
    ] = "0",
    faster: Annotated[float, typer.Option(help="How much faster than the device's time this runs.")] = 20.0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Ask again and again under the heat of a modelled device: tokens are computed here, temperatures are modelled."""
    from ondevice.errors import BadInput
    from ondevice.verbs.sustained import sustained as run

    try:
        rests = tuple(float(each) for each in rest.split(","))
    except ValueError:
        raise BadInput(f"rest {rest!r} is no list of seconds; write --rest 0,60") from None
    with stages() as progress:
        result = run(
            model, device, questions=questions, tokens=tokens, rests=rests, faster=faster, threads=threads,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(result.to_json())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in (
        "rest",
        "question",
        "tokens/s here (measured)",
        "cap (modelled)",
        "case (modelled)",
        "state",
    ):
        table.add_column(head, justify="right")
    for pause, asked in result.questions.items():
        for number, it in enumerate(asked, 1):
            cells = (f"{it.speed:.1f}", f"{it.share:.2f}", f"{it.case:.1f} °C", it.state)
            table.add_row(f"{pause:g} s", str(number), *cells)
    console.print(table)
    for pause, found in result.throttling.items():
        if found and found.onset is not None:
            words = f"slower from question {found.onset + 1} on, by {found.drop:.0%}"
        else:
            words = "no question slower for good"
        notes.print(f"  rest {pause:g} s: {words}, by timestamps alone", highlight=False)
    notes.print(
        f"  speeds are this machine's under the modelled cap of {device}, not the device's", highlight=False
    )


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


def _print_decoders(document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("engine", "variant", "threads", "prefill, tokens/s", "to ours", "decode, tokens/s", "to ours",
                 "first token", "load", "memory", "energy a call"):  # fmt: skip
        table.add_column(head, justify="left" if head in ("engine", "variant") else "right")
    for row in document["rows"]:
        cells = []
        for name in ("prefill", "decode"):
            ratio, speed = row["ratios"][name], row[name]
            low, high = ratio["interval"] or (ratio["median"], ratio["median"])
            cells.append(f"{speed['median']:.1f} ({speed['min']:.1f}-{speed['max']:.1f})")
            cells.append(f"{ratio['median']:.2f}x ({low:.2f}-{high:.2f})")
        energy, load = row["energy"], row["load"]
        table.add_row(
            row["engine"],
            row["variant"],
            str(row["threads"]),
            *cells,
            f"{row['first']['median']:.2f} s",
            f"{load['median']:.2f} s" if load else "",
            amount(row["memory"]["median"]),
            f"{energy['median']:.3g} J {energy['kind']}" if energy else "",
        )
    console.print(table)
    settings = document["settings"]
    cores = settings["machine"]["cores"]
    notes.print(
        f"  {settings['prompt']} tokens read, {settings['tokens']} written; speeds, memory and load measured here",
        highlight=False,
    )
    if settings["load_average"] > 0.5 * cores:
        notes.print(
            f"  the machine was busy (load {settings['load_average']:.1f} on {cores} cores): engines whose threads "
            "spin lose most; measure again when it is calm",
            highlight=False,
        )
    for skipped in document["skipped"]:
        notes.print(f"  {skipped['engine']} skipped: {skipped['reason']}", highlight=False)
