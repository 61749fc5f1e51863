"""EdgeMoE: a mixture whose experts come from storage when they are called, in few bits, and ahead by the path so far.

The quality model is `moe-tiny`, on text that neither its training nor the profile saw; the speed model has random
weights of larger experts and replays the first one's routing. Both on a storage throttled to a stated speed, at which
one expert of 8 bits takes 1.5 times as long as a layer computes.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ondevice.artifact import Artifact, Contents, write
from ondevice.backends.peers.mixtures import Race, race
from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.mixed import ExpertBits
from ondevice.compress.quantize.quantize import Quantize
from ondevice.data import corpora
from ondevice.kernels import Kernels
from ondevice.layers.quantized import QuantizedLinear
from ondevice.layers.store import to_stored
from ondevice.measure.compare import Comparison, Evidence, absolute, difference, ratio
from ondevice.measure.timing import Figure
from ondevice.models.load import load
from ondevice.models.model import Model
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.moe.predictor import PathPredictor
from ondevice.runtime.moe.trace import listen, uses
from ondevice.runtime.weights.eviction import misses_by_policy
from ondevice.runtime.weights.random import write_random
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

TOLERANCE = 0.006  # of the loss: of 3.7 nats a token 2 % of the perplexity; the bar allows 3 %
SHARE = 0.25  # of the bytes of all experts at 8 bits that the buffer has
READS = 1.5  # seconds to read an expert of 8 bits, over seconds of a layer
WINDOW, PIECE = 256, 64  # tokens: of a text that is judged, and of one that the arms read
LARGE = SHAPES["qwen3-0.6b"] | {
    "model_type": "mixtral", "intermediate_size": 512, "num_hidden_layers": 4, "num_local_experts": 16,
    "num_experts_per_tok": 2, "vocab_size": 2048,
}  # fmt: skip
Windows = list[list[int]]


@system("edge-moe")
def prove(scale: Scale) -> Evidence:
    """Widths and paths by the profile's text, then every arm on the test's: the quality model, and the speed model."""
    pages, tuned, judged, read, repeats = {
        "tiny": (20, 2, 2, 60, 1), "fast": (100, 16, 60, 512, 5), "full": (200, 32, 150, 1024, 7),
    }[scale.name]  # fmt: skip
    model = load("moe-tiny")
    profile, test = _sides(pages, scale.seed)
    rest = Quantize(bits=8, method="rtn", smooth=0)
    mixed = ExpertBits(TOLERANCE).apply(model, Calibration([text[:700] for text in profile[:tuned]]))
    widths = {name: each.bits for name, each in mixed.layers(QuantizedLinear).items()}
    with tempfile.TemporaryDirectory() as scratch:
        at = Path(scratch)
        eight, few = _store(at / "eight", rest.apply(model)), _store(at / "few", rest.apply(mixed))
        learned, _ = listen(_decoder(eight), _windows(model, profile))
        windows = _windows(model, test)[:judged]
        (choices, at_eight), (_, at_few) = (listen(_decoder(folder), windows) for folder in (eight, few))
        experts = int(model.config["num_local_experts"])
        paths = PathPredictor(range(choices.shape[1]), experts, choices.shape[2])
        paths.learn(learned)
        paths.save(at / "paths")
        how: dict[str, Any] = {"share": SHARE, "reads": READS, "repeats": repeats}
        spread = windows[:: max(1, len(windows) * PIECE // read)]  # over all domains
        text = [window[:PIECE] for window in spread[: max(1, read // PIECE)]]
        comparisons, notes = _race("moe-tiny", race(eight, few, at / "paths", text, None, **how))
        large = write_random(at / "large", LARGE, bits=8, seed=scale.seed).folder
        small = write_random(
            at / "small", LARGE, bits=lambda name: widths.get(name, 8), seed=scale.seed
        ).folder
        told = choices[: sum(map(len, text))]
        more, said = _race("large experts", race(large, small, at / "paths", text, told, **how))
    base, ours = (math.exp(-each.mean()) for each in (at_eight, at_few))
    plain, by_path = (paths.recall(choices, paths=each) for each in (False, True))
    comparisons += [
        *more,
        Comparison("perplexity, experts of few bits against 8", "", base, ours, ratio("<=", 1.03)),
        Comparison(
            "recall of experts, by path against by frequency", "", plain, by_path, difference(">=", 0.10)
        ),
    ]
    counts = {bits: list(widths.values()).count(bits) // 3 for bits in (8, 4, 2)}
    trace = list(uses(choices[:4096], paths.layers))
    missed = misses_by_policy(trace, len(paths.layers), 16)
    notes += [*said, f"experts by bits: {counts}", f"of {sum(map(len, trace))} uses of experts so many miss with room "
              f"for 16 and nothing read ahead (counted): {missed}"]  # fmt: skip
    return Evidence(*comparisons, notes=notes)


def _race(name: str, raced: Race) -> tuple[list[Comparison], list[str]]:
    """What came of all arms with one buffer on one storage."""
    found = raced.found
    rate = {arm: Figure.of([1 / each for each in it.parts["token"]], "tokens/s") for arm, it in found.items()}
    written = {arm: tuple(it.last["tokens"]) for arm, it in found.items()}
    pairs = [("on demand", "all in memory"), ("paths", "all in memory"), ("widths", "all in memory, few bits"),
             ("full", "all in memory, few bits")]  # fmt: skip
    wrong = float(sum(written[one] != written[other] for one, other in pairs))

    def faster(ours: str, baseline: str, bar: float) -> Comparison:
        return Comparison(
            f"{name}: {ours} against {baseline}", "tokens/s", rate[baseline], rate[ours], ratio(">=", bar)
        )

    held = float(found["full"].last["memory"])
    comparisons = [
        faster("full", "on demand", 1.5),
        faster("widths", "on demand", 1.1),
        faster("paths", "on demand", 1.1),
        faster("full", "all in memory", 0.6),
        Comparison(
            f"{name}: memory for experts", "bytes", raced.whole, held, ratio("<=", 0.30), kind="counted"
        ),
        Comparison(f"{name}: arms whose answers differ", "", None, wrong, absolute("<=", 0), kind="counted"),
    ]
    notes = [f"{name}: {raced.said}"]
    for arm, it in found.items():
        counted = {key: value for key, value in it.last.items() if key != "tokens"}
        notes.append(f"{name}, {arm}: {rate[arm]}, {counted}")
    return comparisons, notes


def _sides(pages: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts for the profile, and for the test: of different documents, neither read in training."""
    samples = corpora.make("test", pages, seed=seed + 1)
    owners, texts = samples["documents"].tolist(), corpora.texts(samples)
    sides = [owner % 2 if owner >= 0 else row % 2 for row, owner in enumerate(owners)]
    return tuple([text for text, side in zip(texts, sides) if side == of] for of in (0, 1))  # type: ignore[return-value]


def _windows(model: Model, texts: Sequence[str]) -> Windows:
    ids = [model.tokenizer.encode(text).ids for text in texts]
    return [each[at : at + WINDOW] for each in ids for at in range(0, len(each) - 1, WINDOW)]


def _decoder(folder: Path) -> Decoder:
    artifact = Artifact(folder)
    return Decoder(artifact.tensors, artifact.config, Kernels(1), context=WINDOW)


def _store(folder: Path, model: Model) -> Path:
    contents = Contents(model.config, model.tokenizer.to_str(), model.task.to_json(), to_stored(model.module))
    return write(folder, contents).folder
