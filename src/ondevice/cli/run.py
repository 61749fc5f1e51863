"""ondevice run"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ondevice.cli.network import run_pictures
from ondevice.cli.output import (
    AsJson,
    Cache,
    ExpertMemory,
    KeyFile,
    Quality,
    Threads,
    console,
    notes,
    print_json,
)
from ondevice.cli.speculate import dry_runs


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="A folder that `ondevice fit` made; a language model's folder, or its name in the zoo; an ONNX file."
        ),
    ],
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts; without any, one a line is read from standard input. Of an ONNX file: arrays, .npy."
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Of a language model: go on with this text.")] = None,
    limit: Annotated[int, typer.Option(help="Of a language model: most tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest tokens of this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from so many of the likeliest tokens; 0 for all.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Draw from tokens of this share of the likeliest's probability.")
    ] = 0.0,
    repetition: Annotated[float, typer.Option(help="Above 1 makes what is there already less likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    context: Annotated[
        int | None, typer.Option(help="Longest text in tokens; the cache is made for it.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="Of a chat: what the model is told first.")] = None,
    cache: Cache = "float16",
    memory: Annotated[
        str | None,
        typer.Option(
            help="Most memory of the process, as in 600MB; the context is cut, and weights streamed, to fit."
        ),
    ] = None,
    expert_memory: ExpertMemory = None,
    quality: Quality = None,
    speculate: Annotated[
        str | None,
        typer.Option(
            help="Check guesses several in a pass: auto, lookup, a folder of heads, or a smaller model."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --speculate: what trees of guesses would take and gain.")
    ] = False,
    prompt_cache: Annotated[
        Path | None, typer.Option(help="A file that keeps what was read, so that it is not read again.")
    ] = None,
    subtasks: Annotated[
        Path | None,
        typer.Option(help="Of a chat: tasks that are done by name on what was said, a TOML table each."),
    ] = None,
    key_file: KeyFile = None,
    keep_decrypted: Annotated[
        str | None,
        typer.Option(
            help="Of a sealed model: decrypt while a text is read, wipe all but so much after it, as in 20%."
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="native, torch, onnxruntime or mlx.")] = "native",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Embed or classify texts with an artifact; let a language model write, or chat with it; run an ONNX network."""
    from ondevice.verbs.open import language_folder

    if model.endswith(".onnx"):
        run_pictures(model, texts or [], threads, as_json)
        return
    if language_folder(model) is None:
        _texts(model, texts, backend, threads, as_json)
        return
    from ondevice.apps.dialogue import read_tasks
    from ondevice.cli.chat import chat, say_experts, say_residency, show
    from ondevice.runtime.decode.sampling import Sampling
    from ondevice.verbs.run import open_within
    from ondevice.verbs.run import prompt_cache as cached

    if dry_run:
        dry_runs(model, speculate, memory, context, cache, threads, as_json)
        return
    sampling = Sampling(temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition=repetition, seed=seed)
    settings: dict[str, Any] = {"sampling": sampling, "limit": limit}
    opening: dict[str, Any] = {"threads": threads, "context": context, "cache": cache, "key_file": key_file}
    opening["keep_decrypted"] = keep_decrypted
    tasks = read_tasks(subtasks) if subtasks else []
    with (
        open_within(
            model, memory, expert_memory=expert_memory, **opening, keep=2, draft=speculate, quality=quality
        ) as session,
        cached(session, model, prompt_cache) if prompt_cache else nullcontext(),
    ):
        if memory or expert_memory:
            say_residency(session)
        guessed = session.engine.speculation
        given = prompt if prompt is not None else " ".join(texts or [])
        if not given and session.template is not None and sys.stdin.isatty() and not as_json:
            chat(session, system, settings, tasks)
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
                | ({"tokens_per_pass": guessed.tokens_per_pass} if guessed else {})
                | ({"experts": asdict(session.experts.stats)} if session.experts else {})
            )
        else:
            end = "" if session.engine.continues else "\n"
            console.print(given, end=end, style="dim", highlight=False, markup=False, soft_wrap=True)
            show(pieces)
            if session.experts:
                say_experts(session.experts.stats)
            if guessed:
                notes.print(f"  {guessed.tokens_per_pass:.2f} tokens a pass", style="dim", highlight=False)


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
