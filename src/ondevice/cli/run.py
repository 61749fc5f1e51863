"""ondevice run"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ondevice.cli.output import AsJson, Threads, console, notes, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ondevice.backends.language import LanguageSession
    from ondevice.runtime.decode.spelling import Piece


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder that `ondevice fit` made; a language model's folder, or its name in the zoo."
        ),
    ],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, one a line is read from standard input.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a language model: go on with this text.")] = None,
    limit: Annotated[int, typer.Option(help="Of a language model: most tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens of this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    context: Annotated[
        int | None, typer.Option(help="Longest text in tokens; the cache is made for it.")
    ] = None,
    backend: Annotated[str, typer.Option(help="native, torch, onnxruntime or mlx.")] = "native",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Embed or classify texts with a finished artifact; let a language model write, or chat with it."""
    from ondevice.verbs.open import language_folder, open_language

    if language_folder(model) is None:
        _texts(model, texts, backend, threads, as_json)
        return
    from ondevice.runtime.decode.sampling import Sampling

    settings: dict[str, Any] = {"sampling": Sampling(temperature, top_p=top_p, seed=seed), "limit": limit}
    with open_language(model, threads=threads, context=context) as session:
        given = prompt if prompt is not None else " ".join(texts or [])
        if not given and session.template is not None and sys.stdin.isatty() and not as_json:
            _chat(session, settings)
            return
        given = given or sys.stdin.read()
        pieces = session.generate(given, **settings)
        if as_json:
            written = list(pieces)
            print_json(
                {
                    "prompt": given,
                    "text": "".join(piece.text for piece in written),
                    "tokens": [piece.token for piece in written],
                    "logprobs": [piece.logprob for piece in written],
                }
            )
        else:
            console.print(given, end="", style="dim", highlight=False, markup=False, soft_wrap=True)
            _show(pieces)


def _texts(artifact: str, texts: list[str] | None, backend: str, threads: int | None, as_json: bool) -> None:
    from ondevice.verbs.run import run as run_artifact

    given = texts or [line for line in sys.stdin.read().splitlines() if line.strip()]
    result = run_artifact(Path(artifact), given, backend=backend, threads=threads)
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


def _show(pieces: Iterator[Piece]) -> str:
    """Print text as it comes, then how fast it came."""
    start, text, count = time.perf_counter(), "", 0
    for piece in pieces:
        console.print(piece.text, end="", highlight=False, markup=False, soft_wrap=True)
        text, count = text + piece.text, count + 1
    console.print()
    seconds = time.perf_counter() - start
    notes.print(
        f"  {count} tokens, {count / seconds:.1f} a second with the prompt", style="dim", highlight=False
    )
    return text


def _chat(session: LanguageSession, settings: dict[str, Any]) -> None:
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = console.input("[bold]> [/]")
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if said.strip():
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": _show(session.chat(messages, **settings))})
