"""The chat of `ondevice run` in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ondevice.cli.output import console, notes
from ondevice.errors import BadInput
from ondevice.measure.amounts import amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ondevice.apps.dialogue import Subtask
    from ondevice.backends.language import LanguageSession
    from ondevice.runtime.decode.spelling import Piece
    from ondevice.runtime.weights.arrivals import ExpertStats

_HELP = "Ctrl-C stops an answer, /reset forgets what was said, Ctrl-D leaves"


def chat(
    session: LanguageSession, system: str | None, settings: dict[str, Any], tasks: Sequence[Subtask] = ()
) -> None:
    """Ask and answer until the end of input. settings: of each answer, see `LanguageSession.generate`. tasks: that are
    done by their names, on what was said, without becoming part of it."""
    by_name = {f"/{task.name}": task for task in tasks}
    if tasks:
        notes.print(f"  tasks: {' '.join(by_name)}", style="dim", highlight=False, markup=False)
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    notes.print(f"  {_HELP}", style="dim")
    while True:
        try:
            said = console.input("[bold]> [/]")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said.strip() == "/reset":
            messages = list(start)
            notes.print("  forgotten", style="dim")
        elif said.strip() in by_name:
            task = by_name[said.strip()]
            try:
                answer = show(
                    session.aside(
                        messages, task.instruction, limit=task.limit, stop=[task.stop] if task.stop else []
                    )
                )
                if task.inject is not None:
                    messages.append({"role": "user", "content": task.inject.replace("{answer}", answer)})
            except BadInput as problem:
                notes.print(f"  {problem}; /reset begins anew", style="red", highlight=False, markup=False)
        elif said.strip().startswith("/"):
            notes.print(f"  {_HELP}", style="dim")
        elif said.strip():
            messages.append({"role": "user", "content": said})
            try:
                messages.append({"role": "assistant", "content": show(session.chat(messages, **settings))})
            except BadInput as problem:  # such as a chat that has become longer than the context
                messages.pop()
                notes.print(f"  {problem}; /reset begins anew", style="red", highlight=False, markup=False)


def say_residency(session: LanguageSession) -> None:
    """What a limit on memory came to."""
    said = f"context: {session.engine.decoder.context} tokens"
    if session.residency is not None and session.rates is not None:
        said = session.residency.describe(session.rates)
    if session.expert_plan is not None:
        said = session.expert_plan.describe()
    notes.print(f"  {said}", style="dim", highlight=False, soft_wrap=True)


def say_experts(stats: ExpertStats) -> None:
    """What became of the memory for experts."""
    asked = stats.hits + stats.late + stats.misses
    notes.print(
        f"  experts: {stats.hits / max(asked, 1):.0%} were there, {stats.late / max(asked, 1):.0%} on their way; "
        f"{amount(stats.bytes_read, 'bytes')} read, {amount(stats.bytes_wasted, 'bytes')} in vain; "
        f"waited {stats.stall_seconds:.1f} s",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def show(pieces: Iterator[Piece]) -> str:
    """Print text as it comes, then how fast it came; Ctrl-C ends it early."""
    start, first, text, count = time.perf_counter(), 0.0, "", 0
    try:
        for piece in pieces:
            first = first or time.perf_counter()
            console.print(piece.text, end="", highlight=False, markup=False, soft_wrap=True)
            text, count = text + piece.text, count + 1
    except KeyboardInterrupt:
        pieces.close()  # type: ignore[attr-defined]  # a generator: what it holds is freed now
    console.print()
    seconds = time.perf_counter() - (first or start)
    speed = f", {(count - 1) / seconds:.1f} a second" if count > 1 and seconds else ""
    after = f", the first after {first - start:.2f} s" if count else ""
    notes.print(f"  {count} tokens{speed}{after}", style="dim", highlight=False)
    return text
