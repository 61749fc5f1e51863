"""ondevice advise"""

from __future__ import annotations

from typing import Annotated

import typer

from ondevice.cli.output import AsJson, amount, console, notes, print_json


def advise(
    device: Annotated[str, typer.Option(help="A profile, as `ondevice devices` lists them.")],
    task: Annotated[str, typer.Option(help="chat, code or summarise.")] = "chat",
    as_json: AsJson = False,
) -> None:
    """Which published model to run on a device, from its profile: modelled."""
    from ondevice.verbs.advise import advise as ask

    advice = ask(device, task)
    if as_json:
        print_json(advice.to_json())
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for head in ("model", "format", "memory", "tokens/s (modelled)", "first token", ""):
        table.add_column(head, justify="left" if head in ("model", "format", "") else "right")
    colour = {"reliable": "green", "uncertain": "yellow", "no": "red"}
    for it in advice.table:
        speed = f"{it.decode:.1f} ({it.spread[0]:.1f}-{it.spread[1]:.1f})" if it.decode and it.spread else ""
        first = f"{it.first:.1f} s" if it.first else ""
        word = it.verdict if it.decode else "too large"
        cells = (it.shape, it.format, amount(it.memory), speed, first)
        table.add_row(*cells, f"[{colour[it.verdict]}]{word}[/]")
    console.print(table)
    if advice.best is None:
        notes.print(f"  nothing of these writes as fast as people read on {advice.device}", highlight=False)
    else:
        notes.print(
            f"  for {advice.task} on {advice.device}: {advice.best.shape} {advice.best.format} on {advice.threads} "
            "threads with ondevice. All figures are modelled from the profile; ranges: constants x0.5 and x1.5",
            highlight=False,
        )
