"""open: what is on disk becomes a session that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ondevice.artifact import Artifact
from ondevice.backends import open_session
from ondevice.errors import BadInput

if TYPE_CHECKING:
    from ondevice.backends.language import LanguageSession
    from ondevice.backends.session import Session
    from ondevice.kernels import CacheDtype


def open(
    artifact: str | Path, backend: str = "native", *, threads: int | None = None, verify: bool = False
) -> Session:
    """A session on an artifact, for embedding or classification.

    backend: "native" (needs nothing but the base install), "torch", "onnxruntime" or "mlx".
    threads: all processors unless told otherwise. verify: check every tensor's checksum now instead of when
    it is first read. Raises BadArtifact for a folder that is damaged or no artifact, BadInput for a language model.
    """
    opened = Artifact(artifact)
    if opened.task.get("kind") == "language":
        raise BadInput(f"{artifact} is a language model; open it with ondevice.open_language()")
    if verify:
        opened.verify()
    return open_session(opened, backend, threads=threads)


def open_language(
    model: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    texts: int = 1,
    cache: CacheDtype = "float16",
    key_file: str | Path | None = None,
) -> LanguageSession:
    """A session on a language model of the Llama family or T5's, which writes text.

    model: an artifact, a Hugging Face folder (config.json, tokenizer.json, safetensors), a GGUF file or a name of the
    zoo. threads: all processors unless told otherwise. context: longest text in tokens, prompt and answer together.
    texts: how many of that length the cache holds. cache: how it keeps keys and values: "float32", "float16", or in
    half and a quarter of float16's memory "int8" and "int4". key_file: of a sealed artifact.
    Raises BadInput where it is neither, UnsupportedModel for another architecture.
    """
    from ondevice.backends.language import LanguageSession
    from ondevice.backends.native import processors

    check_settings(threads, context, cache)
    return LanguageSession.open(
        language_folder(model) or Path(model),
        threads=threads or processors(),
        context=context,
        texts=texts,
        cache=cache,
        key_file=key_file,
    )


def check_settings(threads: int | None, context: int | None, cache: str) -> None:
    """Raise BadInput for what no language model can be opened with."""
    from ondevice.kernels.pages import CACHE_DTYPES

    if threads is not None and threads < 1:
        raise BadInput(f"threads must be at least 1, not {threads}")
    if context is not None and context < 2:
        raise BadInput(f"a context of {context} tokens has no room for a prompt and an answer")
    if cache not in CACHE_DTYPES:
        raise BadInput(f"a cache is kept as {', '.join(CACHE_DTYPES)}, not {cache!r}")


def language_folder(model: str | Path) -> Path | None:
    """Where a language model lies: a Hugging Face folder, or the zoo's of that name; None where it is neither."""
    from ondevice.backends.language import is_language_model
    from ondevice.models import zoo

    folder = Path(model)
    if not folder.exists() and str(model) in zoo.ENTRIES:
        folder = zoo.locate(str(model))
    return folder if is_language_model(folder) else None
