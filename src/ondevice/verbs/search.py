"""search: the passages of a folder that answer a query, by an artifact's embeddings, and by a reranker of the best."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.apps.search import Index
from ondevice.artifact import Artifact
from ondevice.backends import open_session
from ondevice.backends.reranker import Reranker
from ondevice.cache import cache_folder
from ondevice.errors import BadInput

if TYPE_CHECKING:
    from ondevice.apps.search import Hit, Refresh

_CANDIDATES = 40  # nearest passages that a reranker reads
_SAMPLES = 16  # queries that its threshold is calibrated on


@dataclass(frozen=True)
class SearchResult:
    """hits: the best first. refresh: what bringing the index up to date did. index: the file that keeps it.
    threshold: with which passages left the reranker early."""

    query: str
    hits: tuple[Hit, ...]
    refresh: Refresh
    index: Path
    threshold: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "query": self.query,
            "threshold": self.threshold,
            "hits": [vars(hit) | {"path": str(hit.path)} for hit in self.hits],
            "refresh": vars(self.refresh) | {"skipped": list(self.refresh.skipped)},
        }


def search(
    folder: str | Path,
    query: str,
    *,
    model: str | Path,
    k: int = 5,
    rerank: str | Path | None = None,
    precision: float | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SearchResult:
    """The k passages of a folder's .txt, .md, .rst and .py files nearest to a query.

    model: an embedding artifact. The index is kept in the cache folder, one a folder and model; files that
    changed are read anew. progress: told (passages embedded, passages to embed).
    rerank: a model that reads the query with each of the nearest passages and chooses the k among them; scores are then
    its own. precision: let passages leave it early as long as, on sample queries from the folder itself, this share of
    the k is what it would choose without; the first search with it takes as long as those samples do.
    """
    if precision is not None and rerank is None:
        raise BadInput("a precision is that of a reranker; name one too")
    artifact, folder = Artifact(model), Path(folder).resolve()
    name = hashlib.sha256(f"{folder}\0{artifact.fingerprint}".encode()).hexdigest()[:24]
    store = cache_folder() / "search" / f"{name}.safetensors"
    store.parent.mkdir(parents=True, exist_ok=True)
    with open_session(artifact, threads=threads) as session:
        index = Index(folder, store, session.embed, artifact.fingerprint)
        refresh = index.refresh(progress)
        if rerank is None:
            return SearchResult(query, tuple(index.search(query, k)), refresh, store)
        with Reranker.open(rerank, threads=threads) as reranker:
            if precision is not None:
                reranker.threshold = _threshold(index, reranker, Path(rerank), k, precision)
            near = index.search(query, max(_CANDIDATES, 4 * k))
            chosen = reranker.topk(query, [hit.text for hit in near], k)
            hits = tuple(replace(near[each.position], score=each.score) for each in chosen)
            return SearchResult(query, hits, refresh, store, reranker.threshold)


def _threshold(index: Index, reranker: Reranker, model: Path, k: int, precision: float) -> float:
    """Calibrated once for a folder and a reranker, and kept beside the index."""
    name = hashlib.sha256(f"{model.resolve()}\0{k}\0{precision}".encode()).hexdigest()[:12]
    kept = index.store.with_name(f"{index.store.stem}-{name}.json")
    if kept.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return float(json.loads(kept.read_text(encoding="utf-8"))["threshold"])
    samples = []
    for text in index.sample(_SAMPLES):
        near = [hit.text for hit in index.search(text, _CANDIDATES) if text not in hit.text]
        if len(near) > k:
            samples.append((text, near))
    if not samples:
        raise BadInput(
            f"the folder has too few passages to calibrate a choice of {k} on; leave the precision out"
        )
    threshold = reranker.calibrate(samples, k, precision)
    kept.write_text(
        json.dumps({"threshold": threshold}), encoding="utf-8"
    )  # half of it would be calibrated anew
    return threshold
