"""search: the passages of a folder that answer a query, by an artifact's embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.apps.search import Index
from ondevice.artifact import Artifact
from ondevice.backends import open_session
from ondevice.cache import cache_folder

if TYPE_CHECKING:
    from ondevice.apps.search import Hit, Refresh


@dataclass(frozen=True)
class SearchResult:
    """hits: the nearest first. refresh: what bringing the index up to date did. index: the file that keeps it."""

    query: str
    hits: tuple[Hit, ...]
    refresh: Refresh
    index: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "query": self.query,
            "hits": [vars(hit) | {"path": str(hit.path)} for hit in self.hits],
            "refresh": vars(self.refresh) | {"skipped": list(self.refresh.skipped)},
        }


def search(
    folder: str | Path,
    query: str,
    *,
    model: str | Path,
    k: int = 5,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """The k passages of a folder's .txt, .md, .rst and .py files nearest to a query.

    model: an embedding artifact. The index is kept in the cache folder, one a folder and model; files that
    changed are read anew. progress: told (passages embedded, passages to embed).
    """
    artifact, folder = Artifact(model), Path(folder).resolve()
    name = hashlib.sha256(f"{folder}\0{artifact.fingerprint}".encode()).hexdigest()[:24]
    store = cache_folder() / "search" / f"{name}.safetensors"
    store.parent.mkdir(parents=True, exist_ok=True)
    with open_session(artifact, threads=threads) as session:
        index = Index(folder, store, session.embed, artifact.fingerprint)
        refresh = index.refresh(progress)
        return SearchResult(query, tuple(index.search(query, k)), refresh, store)
