"""Search in a folder of text files by meaning, with an index kept on disk.

Knows files, passages and nearest vectors. Knows no model: the function that embeds is handed in, with a name
that tells its vectors from another's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ondevice.data.documents import SUFFIXES, Passage, passages, text_files
from ondevice.errors import BadInput

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

_VERSION = "1"
_BATCH = 64
# A file changed this shortly before it was read may have changed again within one tick of its file system.
_TICK = 2_000_000_000


@dataclass(frozen=True)
class Hit:
    """A passage that answers a query. line: where it starts, from 1; score: cosine, at most 1."""

    path: Path
    line: int
    text: str
    score: float


@dataclass(frozen=True)
class Refresh:
    """What bringing an index up to date did.

    files, passages: that the index holds now. embedded, removed: files read anew, and gone. skipped: files
    that could not be read, with the reason. notice: why the index was built anew, or "".
    """

    files: int
    passages: int
    embedded: int
    removed: int
    skipped: tuple[str, ...]
    notice: str


@dataclass
class _File:
    size: int
    changed: int  # nanoseconds
    sha256: str
    passages: list[Passage]
    vectors: Vectors


@dataclass
class Index:
    """The passages of a folder's text files and their vectors.

    folder: of .txt, .md, .rst and .py files. store: the file that keeps the index (.safetensors).
    embed: texts to vectors, float32 (texts, dimension). model: what tells this model's vectors from others';
    an index made with another model is built anew.
    """

    folder: Path
    store: Path
    embed: Embed
    model: str
    _files: dict[str, _File] = field(default_factory=dict, init=False, repr=False)
    _vectors: Vectors | None = field(default=None, init=False, repr=False)

    def refresh(self, progress: Callable[[int, int], None] | None = None) -> Refresh:
        """Bring the index up to date with the folder: read what is new or changed, forget what is gone.

        progress: called with (passages embedded, passages to embed). The store is replaced at once or not at
        all. Raises BadInput if the folder holds no text files or the store cannot be written.
        """
        folder = Path(self.folder)
        if not folder.is_dir():
            raise BadInput(f"{folder} is not a folder")
        scanned = time.time_ns()
        known, before, notice = self._read()
        files: dict[str, _File] = {}
        fresh: list[_File] = []
        skipped: list[str] = []
        for path in text_files(folder):
            name = path.relative_to(folder).as_posix()
            try:
                stat, old = path.stat(), known.get(name)
                seen = old and (old.size, old.changed) == (stat.st_size, stat.st_mtime_ns)
                if old and seen and old.changed < before - _TICK:
                    files[name] = old
                    continue
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                if old and old.sha256 == digest:
                    files[name] = _File(stat.st_size, stat.st_mtime_ns, digest, old.passages, old.vectors)
                    continue
                found = passages(path)
            except (BadInput, OSError) as error:
                skipped.append(str(error))
                continue
            files[name] = _File(stat.st_size, stat.st_mtime_ns, digest, found, np.empty((0, 0), np.float32))
            fresh.append(files[name])
        if not any(file.passages for file in files.values()):
            reason = f": {skipped[0]}" if skipped else f" ({', '.join(SUFFIXES)})"
            raise BadInput(f"{folder} holds no text that can be searched{reason}")
        self._embed(fresh, progress)
        dimensions = {file.vectors.shape[1] for file in files.values() if file.passages}
        if len(dimensions) > 1:  # the same name for another model
            self._embed(list(files.values()), progress)
            fresh, notice = list(files.values()), "the vectors changed their size; the index was built anew"
        # Files without passages have no vectors to stack.
        self._vectors = np.concatenate([file.vectors for file in files.values() if file.passages])
        removed = len(known.keys() - files.keys())
        self._files = files
        if fresh or removed or notice:
            self._write(scanned)
        return Refresh(len(files), len(self._vectors), len(fresh), removed, tuple(skipped), notice)

    def search(self, query: str, k: int = 5) -> list[Hit]:
        """The k passages nearest to the query, the nearest first; of equals, the first in the folder's order.

        Raises BadInput for an empty query, and for k below 1.
        """
        if not query.strip():
            raise BadInput("the query is empty; say what to search for")
        if k < 1:
            raise BadInput(f"k is {k}; ask for at least one passage")
        if self._vectors is None:
            self.refresh()
        assert self._vectors is not None
        vector = _unit(self.embed([query]), 1)[0]
        scores = self._vectors @ vector
        places = [(name, passage) for name, file in self._files.items() for passage in file.passages]
        best = np.argsort(-scores, kind="stable")[:k]
        folder = Path(self.folder)
        return [
            Hit(folder / places[row][0], places[row][1].line, places[row][1].text, float(scores[row]))
            for row in best
        ]

    def sample(self, count: int) -> list[str]:
        """First sentences of passages that are evenly spread over the folder: queries that fit what is in it."""
        if self._vectors is None:
            self.refresh()
        texts = [" ".join(each.text.split()) for file in self._files.values() for each in file.passages]
        picked = texts[:: max(1, len(texts) // count)][:count]
        return [re.split(r"(?<=[.!?]) ", text)[0][:200] for text in picked]

    def _embed(self, files: list[_File], progress: Callable[[int, int], None] | None) -> None:
        texts = [passage.text for file in files for passage in file.passages]
        parts: list[Vectors] = []
        for start in range(0, len(texts), _BATCH):
            part = texts[start : start + _BATCH]
            parts.append(_unit(self.embed(part), len(part)))
            if progress:
                progress(start + len(part), len(texts))
        vectors, start = np.concatenate(parts) if parts else np.empty((0, 0), np.float32), 0
        for file in files:
            file.vectors = vectors[start : start + len(file.passages)]
            start += len(file.passages)

    def _read(self) -> tuple[dict[str, _File], int, str]:
        """(files, nanoseconds when they were looked over, why the store is not used)."""
        if not self.store.exists():
            return {}, 0, ""
        try:
            with safe_open(self.store, framework="numpy") as opened:
                about, vectors = opened.metadata(), opened.get_tensor("vectors")
                listing = opened.get_tensor("listing").tobytes()
            if about["version"] != _VERSION:
                return {}, 0, "the index was made by another version; it was built anew"
            if about["model"] != self.model:
                return {}, 0, "the index was made with another model; it was built anew"
            if about["sha256"] != _checksum(vectors, listing) or vectors.dtype != np.float32:
                raise ValueError("checksum")
            scanned, rows = json.loads(listing)
            return _unpack(rows, vectors), int(scanned), ""
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError):
            return {}, 0, "the index was damaged; it was built anew"

    def _write(self, scanned: int) -> None:
        assert self._vectors is not None
        rows = [
            [name, file.size, file.changed, file.sha256, [[each.line, each.text] for each in file.passages]]
            for name, file in self._files.items()
        ]
        listing = json.dumps([scanned, rows]).encode()
        about = {"version": _VERSION, "model": self.model, "sha256": _checksum(self._vectors, listing)}
        tensors = {"vectors": self._vectors, "listing": np.frombuffer(listing, np.uint8)}
        temporary = ""
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=self.store.name, dir=self.store.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(save(tensors, about))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.store)
            temporary = ""
        except OSError as error:
            raise BadInput(f"the index {self.store} cannot be written: {error.strerror or error}") from error
        finally:
            if temporary:
                Path(temporary).unlink(missing_ok=True)


def _unit(vectors: Any, count: int) -> Vectors:
    """Rows of unit length, so that a product is a cosine."""
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) != count or not np.isfinite(vectors).all():
        raise BadInput(
            f"the model gave {vectors.shape} for {count} texts, expected finite (texts, dimension)"
        )
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def _checksum(vectors: Vectors, listing: bytes) -> str:
    digest = hashlib.sha256(listing)
    digest.update(np.ascontiguousarray(vectors).data)
    return digest.hexdigest()


def _unpack(rows: list[Any], vectors: Vectors) -> dict[str, _File]:
    files, start = dict[str, _File](), 0
    for name, size, changed, sha256, listed in rows:
        found = [Passage(int(line), str(text)) for line, text in listed]
        files[str(name)] = _File(int(size), int(changed), sha256, found, vectors[start : start + len(found)])
        start += len(found)
    if start != len(vectors):
        raise ValueError("rows")
    return files
