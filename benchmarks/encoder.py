"""MiniLM-L6 at batch 1 and 128 tokens: the native runtime beside torch, ONNX Runtime and OpenVINO.

    python benchmarks/encoder.py --json out.json

Every engine runs in a process of its own and waits there, asleep, for its turn; turns are short and
interleaved, so that all engines see the same machine. A figure is the milliseconds of one forward pass from
token ids to the text's embedding. Beside each stands the cosine of that embedding to torch's in float32.

Peers: torch float32 and dynamic int8; ONNX Runtime float32 and dynamic int8 (its own quantiser, reduced range
off, as AVX-512 VNNI wants); OpenVINO float32, bfloat16 (its inference precision hint) and int8 static (NNCF's
post-training quantisation for transformers, 128 calibration texts). All are told the same number of threads.
Native: tiles of 6 bits for attention, 4 for the feed-forward layers, embeddings 4, int8 activations.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 128
ENGINES = (
    "native",
    "torch-float32",
    "torch-int8-dynamic",
    "onnxruntime-float32",
    "onnxruntime-int8-dynamic",
    "openvino-float32",
    "openvino-bfloat16",
    "openvino-int8-static",
)


def prepare(folder: Path) -> None:
    """Write what the engines read: token ids, the artifact, and the exported models."""
    import torch

    from ondevice.artifact import Contents, write
    from ondevice.compress.calibration import Calibration
    from ondevice.compress.quantize.quantize import Quantize
    from ondevice.data.text import python_docs
    from ondevice.layers.store import to_stored
    from ondevice.models.load import load

    model, corpus = load("minilm"), python_docs()
    texts = [text for text in corpus.calibration.texts if len(text) > 400][:256]
    tokens = model.tokens(texts)
    calibration = [ids[:TOKENS] for ids in tokens if len(ids) >= TOKENS][:128]
    ids = np.array([next(ids for ids in model.tokens(corpus.test.texts) if len(ids) >= TOKENS)[:TOKENS]])
    np.save(folder / "ids.npy", ids)
    with torch.inference_mode():
        mask = torch.ones_like(torch.from_numpy(ids))
        hidden = model.module(input_ids=torch.from_numpy(ids), attention_mask=mask).last_hidden_state
    np.save(folder / "expected.npy", hidden[0].mean(0).numpy())

    moments = Calibration(texts[:64])
    small = Quantize(bits=6, layers="*attention*", method="rtn").apply(model, moments)
    small = Quantize(bits=4, layers="*dense", method="rtn").apply(small, moments)
    small = Quantize(bits=4, layers="*word_embeddings", method="rtn").apply(small, moments)
    contents = Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(small.module))
    write(folder / "artifact", contents, overwrite=True)

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.module

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
            return out

    exported = str(folder / "float32.onnx")
    example = (torch.from_numpy(np.repeat(ids, 2, axis=0)), torch.ones(2, TOKENS, dtype=torch.long))
    dynamic = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    torch.onnx.export(
        Wrapped(), example, exported, input_names=["input_ids", "attention_mask"], output_names=["hidden"],
        dynamo=True, dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic}, external_data=False,
    )  # fmt: skip
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(exported, folder / "int8.onnx", weight_type=QuantType.QInt8)

    import nncf
    import openvino

    graph = openvino.convert_model(exported)
    data = nncf.Dataset(
        [
            {"input_ids": np.array([row]), "attention_mask": np.ones((1, TOKENS), np.int64)}
            for row in calibration
        ]
    )
    quantized = nncf.quantize(
        graph, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(calibration)
    )
    openvino.save_model(graph, folder / "float32.xml", compress_to_fp16=False)
    openvino.save_model(quantized, folder / "int8.xml")


def engine(name: str, folder: Path, threads: int) -> Callable[[], Any]:
    """A function that runs one forward pass and returns the embedding, not normalised."""
    ids = np.load(folder / "ids.npy")
    mask = np.ones_like(ids)
    kind, _, precision = name.partition("-")
    if kind == "native":
        from ondevice.artifact import Artifact
        from ondevice.backends.native import open_artifact

        session = open_artifact(Artifact(folder / "artifact"), threads=threads)
        tokens = ids.tolist()
        return lambda: session.hidden(tokens)[0].mean(axis=0)
    if kind == "torch":
        import torch

        from ondevice.models.load import load

        torch.set_num_threads(threads)
        module = load("minilm").module
        if precision == "int8-dynamic":
            module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

        @torch.inference_mode()
        def run_torch() -> Any:
            return module(**inputs).last_hidden_state[0].mean(0).numpy()

        return run_torch
    if kind == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        path = folder / ("float32.onnx" if precision == "float32" else "int8.onnx")
        runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {"input_ids": ids, "attention_mask": mask}
        return lambda: runtime.run(None, feed)[0][0].mean(axis=0)
    import openvino

    path = folder / ("int8.xml" if precision == "int8-static" else "float32.xml")
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}  # fmt: skip
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    feed = {"input_ids": ids, "attention_mask": mask}
    return lambda: request.infer(feed)[0][0].mean(axis=0)


def serve(name: str, folder: Path, threads: int) -> None:
    """In the engine's process: a line with a count in, a line with that many times and the cosine out."""
    run = engine(name, folder, threads)
    expected = np.load(folder / "expected.npy")
    for line in sys.stdin:
        times = []
        for _ in range(3):
            run()
        for _ in range(int(line)):
            start = time.perf_counter()
            out = run()
            times.append((time.perf_counter() - start) * 1e3)
        cosine = float(out @ expected / np.linalg.norm(out) / np.linalg.norm(expected))
        print(json.dumps({"times": times, "cosine": cosine}), flush=True)


class Arm:
    """An engine's process, seen from outside."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        command = [
            sys.executable,
            __file__,
            "--serve",
            name,
            "--folder",
            str(folder),
            "--threads",
            str(threads),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.times: list[float] = []
        self.cosine = float("nan")

    def turn(self, count: int) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        self.times += reply["times"]
        self.cosine = reply["cosine"]
        return list(reply["times"])

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def summary(times: list[float]) -> dict[str, float]:
    return {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "max_ms": max(times),
        "n": len(times),
    }


def measure(folder: Path, threads: int, names: list[str], rounds: int, seed: int) -> dict[str, Any]:
    """All engines side by side. The ratio is the median over rounds of best peer / native, within the round."""
    arms = {name: Arm(name, folder, threads) for name in names}
    order, per_round = random.Random(seed), []
    try:
        for number in range(rounds + 1):
            medians = {}
            for name in order.sample(names, len(names)):
                times = arms[name].turn(10)
                medians[name] = statistics.median(times)
                time.sleep(0.05)  # lets an engine's threads stop spinning
            if number == 0:  # warming up
                for arm in arms.values():
                    arm.times.clear()
            else:
                per_round.append(medians)
    finally:
        for arm in arms.values():
            arm.close()
    result: dict[str, Any] = {
        "threads": threads,
        "engines": {name: summary(arm.times) | {"cosine": arm.cosine} for name, arm in arms.items()},
    }
    peers = [name for name in names if name != "native"]
    if "native" in names and peers:
        fastest = min(peers, key=lambda name: result["engines"][name]["median_ms"])
        ratios = sorted(min(row[name] for name in peers) / row["native"] for row in per_round)
        result |= {
            "fastest_peer": fastest,
            "ratio_of_medians": result["engines"][fastest]["median_ms"]
            / result["engines"]["native"]["median_ms"],
            "ratio_of_minima": min(result["engines"][name]["min_ms"] for name in peers)
            / result["engines"]["native"]["min_ms"],
            "ratio_by_round": {"median": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]},
        }
    return result


def _burn() -> None:
    while True:
        pass


def crowded(folder: Path, rounds: int) -> dict[str, Any]:
    """Native with two threads while another process keeps one processor busy, against the same left alone."""
    arm = Arm("native", folder, 2)
    alone: list[float] = []
    beside: list[float] = []
    try:
        arm.turn(50)
        for _ in range(rounds):
            alone += arm.turn(50)
            burner = multiprocessing.Process(target=_burn, daemon=True)
            burner.start()
            time.sleep(0.2)
            beside += arm.turn(50)
            burner.kill()
            burner.join()
    finally:
        arm.close()
    slowdown = statistics.median(beside) / statistics.median(alone)
    return {"alone": summary(alone), "beside_a_busy_process": summary(beside), "slowdown": slowdown}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "ondevice-bench-encoder")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.serve:
        serve(arguments.serve, folder, arguments.threads[0])
        return
    if not (folder / "int8.xml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        print("exporting the peers' models", file=sys.stderr)
        prepare(folder)
    result: dict[str, Any] = {
        "machine": platform.machine(), "processors": os.cpu_count(), "tokens": TOKENS, "runs": [],
    }  # fmt: skip
    for threads in arguments.threads:
        run = measure(folder, threads, arguments.engines, arguments.rounds, arguments.seed)
        result["runs"].append(run)
        print(f"{threads} thread(s){'':21}median     min     max ms   cosine to float32", file=sys.stderr)
        for name, row in sorted(run["engines"].items(), key=lambda item: item[1]["median_ms"]):
            spread = f"{row['median_ms']:7.2f} {row['min_ms']:7.2f} {row['max_ms']:7.2f}"
            print(f"  {name:28} {spread}     {row['cosine']:.5f}", file=sys.stderr)
        if "fastest_peer" in run:
            by_round = run["ratio_by_round"]
            print(
                f"  native is {run['ratio_of_medians']:.2f}x as fast as {run['fastest_peer']} (medians), "
                f"{run['ratio_of_minima']:.2f}x by the best moments, by round {by_round['median']:.2f}x "
                f"({by_round['min']:.2f}-{by_round['max']:.2f})",
                file=sys.stderr,
            )
    if "native" in arguments.engines and (os.cpu_count() or 1) > 1:
        result["crowded"] = crowded(folder, 5)
        print(
            f"  one processor taken by another process: {result['crowded']['slowdown']:.2f}x slower",
            file=sys.stderr,
        )
    document = json.dumps(result, indent=1)
    if arguments.json:
        arguments.json.write_text(document + "\n")
    else:
        print(document)


if __name__ == "__main__":
    main()
