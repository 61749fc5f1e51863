"""What every command prints with: results on standard output, everything else on standard error.

Knows Rich and JSON. Knows no verb.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

# A pipe has no width of its own: wide enough there that no table is cut.
console = Console(width=None if sys.stdout.isatty() else 160)
notes = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Cache = Annotated[
    str, typer.Option(help="Of a language model: keys and values are kept as float16, int8 or int4.")
]
ExpertMemory = Annotated[
    str | None,
    typer.Option(
        help="Of a mixture: memory for experts, as in 2GB; the others are read when they are called."
    ),
]
Quality = Annotated[
    float | None,
    typer.Option(help="Of experts in nested bits: 0 as they were taught, above it more bits, below fewer."),
]
KeyFile = Annotated[Path | None, typer.Option(help="Of a sealed artifact: the file with its key.")]
Threads = Annotated[int | None, typer.Option(help="Threads; all processors unless told otherwise.")]


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(document, ensure_ascii=False, allow_nan=False))


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A progress bar for each stage that lasts; yields what a verb tells (stage, share done)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bars: dict[str, Any] = {}
    columns = (TextColumn("  {task.description:<28}"), BarColumn(24), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=False) as progress:

        def tell(stage: str, done: float) -> None:
            for other, bar in bars.items():
                if other != stage:  # one stage has begun, so the others are over
                    progress.update(bar, completed=1.0)
                    progress.stop_task(bar)
            if stage == "done":
                return
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=1.0)
            elif progress.tasks[bars[stage]].stop_time is not None and done < 1:
                progress.reset(bars[stage], start=True, total=1.0)
            progress.update(bars[stage], completed=done)

        yield tell


def amount(value: float) -> str:
    """Bytes as people read them, in powers of ten."""
    from ondevice.measure.amounts import amount as written

    return written(value, "bytes")
