"""One cell of a campaign of decoders: an engine opens a model, reads a prompt and writes, several times.

Knows the settings of such a cell and what is measured of it. Knows nothing of the campaign it stands in. Settings:
engine, model (a published shape or a file), bits, threads, prompt, tokens, repeats; device, for energy.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.backends.peers.decoders import DECODERS, missing_decoder, open_decoder
from ondevice.backends.peers.random_gguf import write_random_gguf
from ondevice.devices import profile
from ondevice.errors import BadInput
from ondevice.measure.energy import Rapl
from ondevice.measure.here import usable_cores
from ondevice.measure.memory import call_fresh
from ondevice.measure.power import PowerMeter, by_phase
from ondevice.measure.timeline import Timeline
from ondevice.measure.timing import Figure
from ondevice.runtime.forecast import decode_bytes
from ondevice.runtime.weights.shapes import SHAPES

DEFAULTS: dict[str, str | int | float] = {
    "engine": "native", "bits": 4, "threads": 1, "prompt": 128, "tokens": 32, "repeats": 3
}  # fmt: skip
GGUF_KINDS = {4: "q4_0", 8: "q8_0", 16: "bf16"}


def check_cell(settings: Mapping[str, Any]) -> None:
    """BadInput for what no cell can mean: an unknown setting, engine or device, a missing file, too many threads."""
    cell = DEFAULTS | dict(settings)
    known = [*DEFAULTS, "model", "device"]
    if unknown := sorted(set(cell) - set(known)):
        raise BadInput(f"unknown setting {', '.join(unknown)}; a cell has: {', '.join(known)}")
    if cell["engine"] not in DECODERS:
        raise BadInput(f"no engine {cell['engine']!r}; there are: {', '.join(DECODERS)}")
    if absent := missing_decoder(str(cell["engine"])):
        raise absent
    if "model" not in cell or not (cell["model"] in SHAPES or Path(cell["model"]).exists()):
        raise BadInput(
            f"a cell's model is missing: {cell.get('model')}; name a file, a folder or a published shape"
        )
    allowed = (4, 8) if cell["engine"] == "native" else tuple(GGUF_KINDS)
    if cell["model"] in SHAPES and cell["bits"] not in allowed:
        raise BadInput(f"{cell['engine']} gets random weights of {allowed} bits, not {cell['bits']!r}")
    if "device" in cell:
        profile.load(str(cell["device"]))
    numbers = ("threads", "prompt", "tokens", "repeats")
    if any(not isinstance(cell[name], int) or cell[name] < 1 for name in numbers) or cell["tokens"] < 2:
        raise BadInput("threads, prompt and repeats are counts of 1 or more, tokens of 2 or more")
    if cell["threads"] > usable_cores():
        raise BadInput(f"{cell['threads']} threads are more than the {usable_cores()} cores of this machine")


def prepare_cell(settings: Mapping[str, Any], scratch: Path) -> dict[str, str | int | float]:
    """What a cell opens, where it has to be written first: a GGUF file of random weights. The last one is kept, so
    that cells in a row share it and no more than one lies in the folder."""
    cell = DEFAULTS | dict(settings)
    engine, shape = cell["engine"], str(cell["model"])
    if engine not in ("llama.cpp", "openvino") or shape not in SHAPES:
        return {}
    kind = GGUF_KINDS[cell["bits"]]
    folder = scratch / f"{shape}-{kind}"
    gguf, graph = folder / "random.gguf", folder / "openvino" / "openvino_model.xml"
    if not gguf.exists():
        for other in scratch.iterdir():
            shutil.rmtree(other)
        folder.mkdir()
        write_random_gguf(gguf, SHAPES[shape], kind)
    if engine == "openvino" and not graph.exists():
        call_fresh(_convert, str(gguf), str(graph.parent))
    return {"file": str(graph if engine == "openvino" else gguf)}


def measure_cell(settings: dict[str, Any]) -> dict[str, Figure]:
    """What one engine does with one model, in this process.

    prefill, decode: tokens/s. token: seconds of one after the first. first: seconds from the prompt to the first. load:
    seconds to open, imports included. cpu: processor seconds of a token after the first. bytes: counted, that such a
    token reads. Where counters or `device` give power, "energy PHASE" in joules for load, prefill, decode and other
    (warming up), and "energy" of all.
    """
    cell = DEFAULTS | settings
    device = profile.load(str(cell["device"])) if "device" in cell else None
    prompt, tokens = int(cell["prompt"]), int(cell["tokens"])
    ids = np.random.default_rng(0).integers(260, 1000, prompt).tolist()
    meter = PowerMeter(device) if Rapl().readable or (device and device.power) else None
    found: dict[str, list[float]] = {name: [] for name in ("prefill", "decode", "token", "first", "cpu")}
    begin, timeline = time.perf_counter(), Timeline()
    with meter or nullcontext():
        with timeline.span("phase", "load"):
            decoder = open_decoder(
                str(cell["engine"]), str(cell.get("file", cell["model"])), threads=int(cell["threads"]),
                context=prompt + tokens + 1, bits=int(cell["bits"]),
            )  # fmt: skip
        for _ in range(int(cell["repeats"])):
            with timeline.span("phase", "other"):
                processor = time.process_time()
                decoder.generate(ids, 1)  # finds its caches, and tells what reading alone takes
                reading = time.process_time() - processor
            start, processor = time.perf_counter(), time.process_time()
            it = decoder.generate(ids, tokens)
            end, both = time.perf_counter(), time.process_time() - processor
            timeline.record("phase", "prefill", start, end - it.rest)
            timeline.record("phase", "decode", end - it.rest, end)
            found["prefill"].append(prompt / it.first)
            found["decode"].append((tokens - 1) / it.rest)
            found["token"].append(it.rest / (tokens - 1))
            found["first"].append(it.first)
            found["cpu"].append(max(0.0, both - reading) / (tokens - 1))
    units = {"prefill": "tokens/s", "decode": "tokens/s"}
    figures = {name: Figure.of(values, units.get(name, "s")) for name, values in found.items()}
    figures["load"] = Figure.of([timeline.spans[0].seconds], "s")
    if cell["model"] in SHAPES:
        form = f"tiles{cell['bits']}" if cell["engine"] == "native" else GGUF_KINDS[int(cell["bits"])]
        read = decode_bytes(SHAPES[str(cell["model"])], form, prompt + tokens / 2)
        figures["bytes"] = Figure.counted(read, "bytes")
    if meter:
        trace = meter.trace
        for name, joules in by_phase(trace, timeline.spans, begin).items():
            figures[f"energy {name}"] = Figure.of([joules], "J", trace.kind)
        figures["energy"] = Figure.of([trace.total], "J", trace.kind)
    return figures


def _convert(gguf: str, folder: str) -> None:
    """In a process of its own: what the conversion holds is no part of any cell."""
    from ondevice.backends.peers.openvino_decoder import convert_gguf

    convert_gguf(Path(gguf), Path(folder))
