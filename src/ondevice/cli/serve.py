"""ondevice serve"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ondevice.cli.output import Cache, ExpertMemory, KeyFile, Quality, Threads, notes


def serve(
    model: Annotated[
        str, typer.Argument(help="A language model or an embedding one: folder, GGUF file, or name.")
    ],
    host: Annotated[
        str, typer.Option(help="Who may connect; another than this machine needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where to listen.")] = 8000,
    key: Annotated[
        str | None, typer.Option(envvar="ONDEVICE_API_KEY", help="What clients must send as a bearer token.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model; the folder's name unless given.")
    ] = None,
    context: Annotated[int | None, typer.Option(help="Longest text in tokens.")] = None,
    cache: Cache = "float16",
    memory: Annotated[
        str | None, typer.Option(help="Most memory of the process, as in 600MB; weights are streamed to fit.")
    ] = None,
    expert_memory: ExpertMemory = None,
    quality: Quality = None,
    speculate: Annotated[
        str | None,
        typer.Option(help="Check guesses several in a pass: auto, lookup, heads, or a smaller model."),
    ] = None,
    key_file: KeyFile = None,
    threads: Threads = None,
) -> None:
    """Serve a model behind OpenAI's API, with a page to chat on."""
    from ondevice.verbs.serve import model_name
    from ondevice.verbs.serve import serve as run

    notes.print(
        f"  model: {name or model_name(model)}   page: http://{host}:{port}/   "
        f"API: http://{host}:{port}/v1   Ctrl-C ends it",
        highlight=False,
        soft_wrap=True,
    )
    opening: dict[str, Any] = {"threads": threads, "context": context, "cache": cache, "memory": memory}
    opening |= {
        "expert_memory": expert_memory,
        "key_file": key_file,
        "speculate": speculate,
        "quality": quality,
    }
    run(model, host=host, port=port, key=key, name=name, **opening)
