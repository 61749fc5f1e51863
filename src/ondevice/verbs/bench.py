"""bench: an artifact beside what one would use instead, in one interleaved run.

Composes backends, peers and measures. Each engine runs in a process of its own, so that their threads do not
disturb each other and each peak of memory is one engine's.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.artifact import Artifact
from ondevice.backends import BACKENDS, open_session
from ondevice.backends.peers import PEERS, VARIANTS, missing, open_peer, prepare, storage_bytes
from ondevice.errors import BadInput
from ondevice.measure.apart import Arm, Opened, Outcome, side_by_side_apart
from ondevice.measure.here import machine
from ondevice.measure.memory import call_fresh
from ondevice.measure.quality.classification import agreement
from ondevice.measure.quality.embedding import cosine
from ondevice.measure.sidebyside import bootstrap_ratio, verdict
from ondevice.models.tasks import Floats
from ondevice.verbs.judge import judged_texts, one_text

if TYPE_CHECKING:
    from ondevice.backends.session import Session
    from ondevice.data.text import Corpus

Progress = Callable[[str, float], None]
_JUDGED, _CALIBRATION = 64, 128  # texts
_FITTED = "fitted"


@dataclass(frozen=True)
class BenchRow:
    """One engine on one number of threads.

    seconds: of one pass, measured. ratio: its median over that of the artifact on the first backend, above 1 where
    the engine is slower; interval: 95 % bootstrap over rounds; compared: "slower", "faster" or "tie".
    storage_bytes: counted. memory_bytes: peak resident memory of its process, Python and loading included, measured.
    quality: mean cosine to the original's embeddings, or share of equal classes, measured; None where no original
    was loaded.
    """

    engine: str
    variant: str
    threads: int
    median_seconds: float
    min_seconds: float
    max_seconds: float
    n: int
    ratio: float
    interval: tuple[float, float] | None
    compared: str
    storage_bytes: int
    memory_bytes: int
    quality: float | None

    def to_json(self) -> dict[str, Any]:
        latency = {f"{part}_ms": 1e3 * getattr(self, f"{part}_seconds") for part in ("median", "min", "max")}
        return {
            "engine": self.engine,
            "variant": self.variant,
            "threads": self.threads,
            "latency": {"kind": "measured", "n": self.n} | latency,
            "ratio": {"median": self.ratio, "interval": self.interval, "compared": self.compared},
            "storage_bytes": {"kind": "counted", "value": self.storage_bytes},
            "memory_bytes": {"kind": "measured", "value": self.memory_bytes},
            "quality": None if self.quality is None else {"kind": "measured", "value": self.quality},
        }


@dataclass(frozen=True)
class BenchResult:
    """rows: the artifact's backends first, then the peers. skipped: {"engine", "variant", "reason"}. settings: what
    ran, on which machine. metric: what `quality` is, "cosine" or "agreement"."""

    rows: list[BenchRow]
    skipped: list[dict[str, str]]
    settings: dict[str, Any]
    metric: str

    def fastest_peer(self, threads: int) -> BenchRow | None:
        """The peer that the artifact is up against; None where none ran."""
        peers = [row for row in self.rows if row.threads == threads and row.variant != _FITTED]
        return min(peers, key=lambda row: row.median_seconds, default=None)

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice bench --json` prints."""
        fastest = {threads: self.fastest_peer(threads) for threads in self.settings["threads"]}
        return {
            "settings": self.settings,
            "metric": self.metric,
            "rows": [row.to_json() for row in self.rows],
            "fastest_peer": {str(n): row.to_json() for n, row in fastest.items() if row is not None},
            "skipped": self.skipped,
        }


def bench(
    artifact: str | Path,
    against: Sequence[str] = (),
    *,
    original: str | Path | None = None,
    backends: Sequence[str] = ("native",),
    threads: Sequence[int] = (1, 2),
    tokens: int = 128,
    batch: int = 1,
    repeats: int = 31,
    data: str | Path | Corpus | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done: None,
) -> BenchResult:
    """Latency, memory, storage and quality of an artifact, beside other engines on the model that it came from.

    against: "torch", "onnxruntime", "openvino", "mlx": each in its variants (see `backends.peers`), on the original
        model; what is not installed is skipped, and the result says how to install it.
    original: name or folder of that model; None for the name in the artifact.
    backends: what runs the artifact; ratios are to the first. tokens, batch: of the texts of one timed pass, real
        ones. repeats: rounds; in each, every engine has one timed call.
    data: texts to judge and calibrate with; None for the documentation of the running Python.
    Raises BadInput for unknown names, and where the artifact itself does not run.
    """
    _check(against, backends, threads, tokens, batch)
    source = Artifact(artifact)
    progress("reading texts", 0.0)
    load = os.getloadavg()[0]
    corpus = _corpus(data)
    judged = judged_texts(corpus.test, _JUDGED)
    # of pairs the passages, which come last and are the longer ones
    calibration = judged_texts(corpus.calibration, _CALIBRATION).texts[-_CALIBRATION:]
    tokens = min(tokens, int(source.task["max_length"]))
    wanted = [key for key in VARIANTS if key[0] in against]
    absent = {key: problem for key in wanted if (problem := missing(*key)) is not None}
    variants = [key for key in wanted if key not in absent]
    skipped = [_skip(*key, str(problem)) for key, problem in absent.items()]
    with tempfile.TemporaryDirectory() as scratch:
        reference: Floats | None = None
        if variants or original is not None:
            progress("preparing the other engines", 0.0)
            name = str(original or source.provenance.get("name", ""))
            reference, _ = call_fresh(_prepare, name, variants, calibration, judged.texts, scratch, tokens)
        keys = [(backend, _FITTED) for backend in backends] + variants
        timed = _Timed(tuple(judged.texts), tuple(corpus.test.texts), tokens, batch)
        rows: list[BenchRow] = []
        for done, count in enumerate(threads):
            progress(f"measuring on {count} threads", done / len(threads))
            arms = {
                key: Arm(_open, (str(source.folder if key[1] == _FITTED else scratch), *key, count, timed))
                for key in keys
            }
            outcomes = side_by_side_apart(
                {" ".join(key): arm for key, arm in arms.items()}, repeats, seed=seed
            )
            rows += _rows(source, Path(scratch), keys, outcomes, count, reference, skipped)
    progress("done", 1.0)
    settings = {
        "artifact": source.fingerprint,
        "threads": list(threads),
        "tokens": tokens,
        "batch": batch,
        "repeats": repeats,
        "machine": machine(),
        "load_average": load,  # before the run: on a busy machine, engines whose threads spin suffer most
        "data": corpus.fingerprint(),
    }
    metric = "cosine" if source.task["kind"] == "embedding" else "agreement"
    return BenchResult(rows, skipped, settings, metric)


@dataclass(frozen=True)
class _Timed:
    """What every engine does. judged: its outputs for these are compared. texts: a timed pass is made of these."""

    judged: tuple[str, ...]
    texts: tuple[str, ...]
    tokens: int
    batch: int


def _rows(
    source: Artifact,
    scratch: Path,
    keys: Sequence[tuple[str, str]],
    outcomes: dict[str, Outcome | str],
    threads: int,
    reference: Floats | None,
    skipped: list[dict[str, str]],
) -> list[BenchRow]:
    first = outcomes[" ".join(keys[0])]
    if isinstance(first, str):
        raise BadInput(f"the artifact does not run on {keys[0][0]}: {first}")
    rows = []
    for engine, variant in keys:
        outcome = outcomes[f"{engine} {variant}"]
        if isinstance(outcome, str):
            skipped.append(_skip(engine, variant, outcome))
            continue
        quality = None
        if reference is not None:
            measure = cosine if source.task["kind"] == "embedding" else agreement
            quality = float(measure(reference, outcome.last).mean())
        ours, theirs = first.seconds, outcome.seconds
        itself = outcome is first
        rows.append(
            BenchRow(
                engine=engine,
                variant=variant,
                threads=threads,
                median_seconds=theirs.median,
                min_seconds=theirs.min,
                max_seconds=theirs.max,
                n=theirs.n,
                ratio=theirs.median / ours.median,
                interval=None if itself or theirs.n < 2 else bootstrap_ratio(ours, theirs),
                compared="tie" if itself else _WORDS[verdict(ours, theirs)],
                storage_bytes=source.storage_bytes
                if variant == _FITTED
                else storage_bytes(scratch, engine, variant),
                memory_bytes=outcome.peak_bytes,
                quality=quality,
            )
        )
    return rows


_WORDS = {"tie": "tie", "lower": "faster", "higher": "slower"}


def _prepare(
    name: str,
    variants: Sequence[tuple[str, str]],
    calibration: Sequence[str],
    judged: Sequence[str],
    folder: str,
    tokens: int,
) -> Floats:
    """In a process of its own: the peers' files, and what the original makes of the judged texts."""
    from ondevice.models.load import load

    os.dup2(2, 1)  # converters print, and standard output is our caller's
    model = load(name)
    prepare(model, variants, calibration, Path(folder), tokens=tokens)
    return model.predict(judged)


def _open(folder: str, engine: str, variant: str, threads: int, timed: _Timed) -> Opened:
    """In the engine's process: what is timed, and the outputs that are compared."""
    session: Session
    if variant == _FITTED:
        session = open_session(Artifact(folder), engine, threads=threads)
    else:
        session = open_peer(Path(folder), engine, variant, threads)
    embedding = session.task.kind == "embedding"
    count = len(timed.texts)
    rows = [
        one_text(session, timed.texts[start:] + timed.texts[:start], timed.tokens)
        for start in range(0, count, -(-count // timed.batch))
    ][: timed.batch]
    rows = [rows[index % len(rows)] for index in range(timed.batch)]
    run = session.hidden if embedding else session.logits
    return lambda: run(rows), lambda: (session.embed if embedding else session.classify)(timed.judged)


def _skip(engine: str, variant: str, reason: str) -> dict[str, str]:
    return {"engine": engine, "variant": variant, "reason": reason}


def _corpus(data: str | Path | Corpus | None) -> Corpus:
    from ondevice.data.text import python_docs, texts

    if data is None:
        return python_docs()
    return texts(data).split() if isinstance(data, (str, Path)) else data


def _check(
    against: Sequence[str], backends: Sequence[str], threads: Sequence[int], tokens: int, batch: int
) -> None:
    for given, known in ((against, PEERS), (backends, tuple(BACKENDS))):
        for name in [given] if isinstance(given, str) else given:
            if name not in known:
                raise BadInput(f"no engine {name!r}; there are: {', '.join(known)}")
    if not backends or not threads or min(threads) < 1 or tokens < 3 or batch < 1:
        raise BadInput(
            "bench needs a backend, threads and a batch of 1 or more, and 3 tokens or more (two of them mark the ends)"
        )
