"""bench, for convolutional networks: milliseconds a picture beside other engines, and how each operator runs here.

Composes sessions, peers and measures. Each engine runs in a process of its own, one at a time, in turn.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ondevice.errors import BadInput
from ondevice.measure.apart import Arm, Opened, side_by_side_apart
from ondevice.measure.here import machine
from ondevice.measure.sidebyside import bootstrap_ratio, verdict
from ondevice.measure.timing import Figure

if TYPE_CHECKING:
    from ondevice.runtime.preinfer.prepare import Prepared

Progress = Callable[[str, float], None]
_WORDS = {"tie": "tie", "lower": "faster", "higher": "slower"}


@dataclass(frozen=True)
class NetworkRow:
    """One engine on one number of threads.

    seconds: of one run, measured. memory: peak resident bytes of its process. difference: largest, of the output, over
    the largest value of ours. elsewhere: operators that ran on ONNX Runtime, where that was cheaper. ratio: of median
    times to ours; interval: 95 % bootstrap over rounds.
    """

    engine: str
    threads: int
    seconds: Figure
    memory: int
    difference: float
    elsewhere: int
    ratio: float
    interval: tuple[float, float] | None
    compared: str

    def to_json(self) -> dict[str, Any]:
        ratio = {"median": self.ratio, "interval": self.interval, "compared": self.compared}
        return {
            "engine": self.engine,
            "threads": self.threads,
            "seconds": self.seconds.to_json(),
            "memory_bytes": {"kind": "measured", "value": self.memory},
            "difference": {"kind": "measured", "value": self.difference},
            "elsewhere": {"kind": "counted", "value": self.elsewhere},
            "ratio": ratio,
        }


@dataclass(frozen=True)
class NetworkBench:
    """rows: ours first. skipped: {"engine", "reason"}. settings: what ran, on which machine."""

    rows: list[NetworkRow]
    skipped: list[dict[str, str]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice bench network --json` prints."""
        return {
            "settings": self.settings,
            "rows": [row.to_json() for row in self.rows],
            "skipped": self.skipped,
        }


@dataclass(frozen=True)
class Explanation:
    """What was decided before the first run. operators: {"name", "operator", "backend", "scheme", "modelled_seconds",
    "considered"}. arena_bytes, live_bytes, results_bytes: of the plan, of what lives at the worst step, of all results
    each by itself; all counted."""

    operators: list[dict[str, Any]]
    arena_bytes: int
    live_bytes: int
    results_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def explain_network(path: str | Path, *, shape: Sequence[int] | None = None, threads: int = 1) -> Explanation:
    """How each operator of an ONNX network would run here: its scheme, its backend, modelled times, memory.

    shape: of the input, where the file leaves sizes open. Raises BadInput and UnsupportedModel as `open_network`.
    """
    from ondevice.backends.network import open_network

    with open_network(path, shapes=None if shape is None else tuple(shape), threads=threads) as session:
        assert session.prepared is not None
        return _explained(session.prepared)


def _explained(prepared: Prepared) -> Explanation:
    operators = []
    for row in prepared.rows:
        shape, choice = row.node.shape, row.choice
        words = row.node.kind
        if row.node.kind == "conv" and shape is not None:
            kind = "depthwise" if shape.depthwise else "conv"
            words = f"{kind} {shape.kernel[0]}x{shape.kernel[1]}, {shape.channels} to {shape.outputs}"
            words += f", {shape.out_size[0]}x{shape.out_size[1]}" + (" + add" if row.node.residual else "")
        considered = {str(it): seconds for it, seconds in choice.considered} if choice else {}
        operators.append(
            {
                "name": row.node.name,
                "operator": words,
                "backend": row.backend,
                "scheme": str(choice.scheme) if choice else None,
                "modelled_seconds": choice.seconds if choice else None,
                "considered": considered,
            }
        )
    memory = prepared.memory
    return Explanation(operators, 4 * memory.size, 4 * memory.bound, 4 * prepared.results)


def bench_network(
    path: str | Path | None,
    against: Sequence[str] = (),
    *,
    random: str | None = None,
    shape: Sequence[int] | None = None,
    threads: Sequence[int] = (1, 2),
    repeats: int = 31,
    seed: int = 0,
    progress: Progress = lambda what, done: None,
) -> NetworkBench:
    """Latency and memory of an ONNX network on the own engine, beside others on the same file, all in float32.

    random: instead of a file, "resnet-18" or "mobilenet-v2" with random weights. against: "onnxruntime", "openvino",
    "mnn"; what is not installed is skipped. shape: of the input, where the file leaves sizes open.
    Raises BadInput for unknown names, and where the network does not run here.
    """
    from ondevice.backends.network.reader import OnnxFile
    from ondevice.backends.peers.networks import NETWORK_PEERS
    from ondevice.models.vision.networks import save_network

    for name in against:
        if name not in NETWORK_PEERS:
            raise BadInput(f"no engine {name!r} for networks; there are: {', '.join(NETWORK_PEERS)}")
    if (path is None) == (random is None) or not threads or min(threads) < 1:
        raise BadInput("give a file or the name of a published shape, and threads of 1 or more")
    load, rows, skipped = os.getloadavg()[0], [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(path) if path is not None else save_network(str(random), Path(folder) / f"{random}.onnx")
        read = OnnxFile(file)
        if len(read.inputs) != 1:
            raise BadInput(f"{file.name} has {len(read.inputs)} inputs; only networks with one are compared")
        name = next(iter(read.inputs))
        sizes = read.shapes({} if shape is None else {name: tuple(shape)})[name]
        for done, count in enumerate(threads):
            progress(f"measuring on {count} threads", done / len(threads))
            arms = {it: Arm(_open, (str(file), it, sizes, count, seed)) for it in ("native", *against)}
            outcomes = side_by_side_apart(arms, repeats, seed=seed)
            ours = outcomes["native"]
            if isinstance(ours, str):
                raise BadInput(f"the network does not run here: {ours}")
            for engine, outcome in outcomes.items():
                if isinstance(outcome, str):
                    skipped.append({"engine": engine, "reason": outcome})
                    continue
                itself = outcome is ours
                (output, elsewhere), (own, _) = outcome.last, ours.last
                off = float(np.abs(output - own).max() / np.abs(own).max())
                ratio = outcome.seconds.median / ours.seconds.median
                interval = None if itself or repeats < 2 else bootstrap_ratio(ours.seconds, outcome.seconds)
                compared = "tie" if itself else _WORDS[verdict(ours.seconds, outcome.seconds)]
                judged = (off, elsewhere, ratio, interval, compared)
                rows.append(NetworkRow(engine, count, outcome.seconds, outcome.peak_bytes, *judged))
    progress("done", 1.0)
    settings = {"network": file.name, "shape": list(sizes), "threads": list(threads), "repeats": repeats}
    return NetworkBench(rows, skipped, settings | {"machine": machine(), "load_average": load})


def _open(path: str, engine: str, shape: tuple[int, ...], threads: int, seed: int) -> Opened:
    """In the engine's process: what is timed, and the output that is compared."""
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if engine == "native":
        from ondevice.backends.network import open_network

        session = open_network(path, shapes=shape, threads=threads)

        def own() -> Any:
            return next(iter(session.run(x).values()))

        return own, lambda: (own(), session.elsewhere)
    from ondevice.backends.peers.networks import open_peer_network

    os.dup2(2, 1)  # MNN prints, and standard output is our caller's
    run = open_peer_network(engine, path, shape, threads)
    return lambda: run(x), lambda: (run(x), 0)
