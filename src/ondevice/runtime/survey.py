"""Which published models would write usably on a device: a table of forecasts, all modelled.

Knows published shapes, formats and kinds of prompt. Runs nothing.

Source of the question and of "reliable": "An Evaluation of LLMs Inference on Popular Single-board Computers" (2025).
Its abstract does not name its 25 models; these 25 are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ondevice.devices.profile import Device
from ondevice.runtime.forecast import Forecast, RuntimeModel, forecast, scaled
from ondevice.runtime.weights.shapes import SHAPES, parameters

# (shape, format): all shapes at 4 bits, the seven smallest at 8 too.
MODELS: tuple[tuple[str, str], ...] = (
    *((shape, "q4_0") for shape in SHAPES),
    *((shape, "q8_0") for shape in sorted(SHAPES, key=lambda name: parameters(SHAPES[name]))[:7]),
)
# (tokens read, tokens written)
PROMPTS = {"short fact": (16, 32), "long explanation": (24, 256), "code": (64, 128), "summarise": (512, 96)}
# What a task asks most often, of PROMPTS.
TASKS = {"chat": ("short fact", "long explanation"), "code": ("code",), "summarise": ("summarise",)}
_LEAST = 1.0  # tokens/s below which nobody waits
_SENSITIVITY = (0.5, 1.0, 1.5)  # times the runtime's constants

Verdict = Literal["reliable", "uncertain", "no"]


@dataclass(frozen=True)
class Prospect:
    """One model on one device. parameters: weights. decode: tokens/s of the slowest kind of prompt, with its range when
    the runtime's constants are half and one and a half of what they are; None where it does not fit. first: seconds
    to the first token of the longest prompt. All modelled."""

    shape: str
    format: str
    parameters: int
    memory: float
    allowed: float
    decode: float | None
    spread: tuple[float, float] | None
    first: float | None
    verdict: Verdict


def prospect(
    shape: str, format: str, device: Device, runtime: RuntimeModel, *, threads: int | None = None,
    prompts: Sequence[str] = tuple(PROMPTS),
) -> Prospect:  # fmt: skip
    """reliable: it fits with its cache and writes a token a second or more at every kind of prompt, also with half of
    the runtime's constants; no: it does not with one and a half of them; uncertain: between."""

    def of(factor: float) -> list[Forecast]:
        made = scaled(runtime, factor)
        sizes = [PROMPTS[name] for name in prompts]
        return [
            forecast(SHAPES[shape], format, device, made, prompt=read, tokens=written, threads=threads)
            for read, written in sizes
        ]

    slowest = [min(it.decode or 0.0 for it in of(factor)) for factor in _SENSITIVITY]
    usual = of(1.0)
    largest = max(usual, key=lambda it: it.memory)
    usable = [speed >= _LEAST for speed in slowest]
    verdict: Verdict = "reliable" if all(usable) else "uncertain" if any(usable) else "no"
    count = parameters(SHAPES[shape])
    if slowest[1] == 0:
        return Prospect(shape, format, count, largest.memory, largest.allowed, None, None, None, "no")
    first = max(it.first or 0.0 for it in usual)
    spread = (slowest[0], slowest[2])
    return Prospect(shape, format, count, largest.memory, largest.allowed, slowest[1], spread, first, verdict)


def survey(device: Device, runtime: RuntimeModel, *, threads: int | None = None,
           prompts: Sequence[str] = tuple(PROMPTS)) -> list[Prospect]:  # fmt: skip
    """The prospects of all models, the largest first."""
    found = [prospect(*model, device, runtime, threads=threads, prompts=prompts) for model in MODELS]
    return sorted(found, key=lambda it: (-it.parameters, it.format))
