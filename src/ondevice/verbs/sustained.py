"""sustained: questions one after the other on a model that writes, held to what a warm phone would allow.

Composes a real decode here (`backends.peers.decoders`), a modelled device's heat and the run of questions. The tokens
are computed and timed here; temperatures and caps are modelled: no figure is the phone's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ondevice.backends.native import processors
from ondevice.backends.peers.decoders import NativeDecoder
from ondevice.devices import profile
from ondevice.devices.thermal import ClockPower, Governor, PhoneHeat, ThermalNetwork
from ondevice.errors import BadInput
from ondevice.measure.sustained import Question, Throttling, find_throttling, sustained_run
from ondevice.runtime.forecast import forecast, own_runtime
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.verbs.open import language_folder

_PROMPT = 32  # tokens of the question


@dataclass(frozen=True)
class SustainedResult:
    """questions: of each rest, in order. throttling: what the timestamps alone say; None below four questions."""

    device: str
    faster: float
    questions: dict[float, list[Question]]
    throttling: dict[float, Throttling | None]

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice bench sustained --json` prints. Speeds are of this machine under the cap."""
        return {
            "device": self.device,
            "faster": self.faster,
            "runs": [
                {
                    "rest_seconds": rest,
                    "questions": [
                        {"tokens_a_second": {"kind": "measured", "value": it.speed},
                         "cap": {"kind": "modelled", "value": it.share},
                         "case_celsius": {"kind": "modelled", "value": it.case}, "state": it.state}
                        for it in asked
                    ],
                    "throttling": None if (found := self.throttling[rest]) is None else vars(found),
                }
                for rest, asked in self.questions.items()
            ],
        }  # fmt: skip


def sustained(
    model: str | Path,
    device: str = "iphone-a17pro",
    *,
    questions: int = 20,
    tokens: int = 64,
    rests: tuple[float, ...] = (0.0,),
    faster: float = 20.0,
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda what, done: None,
) -> SustainedResult:
    """Ask the same question again and again, once for each rest (seconds of the device between two questions).

    model: a published shape (random weights of 4 bits), a folder, a GGUF file or a name of the zoo. device: a profile
    with a thermal network. faster: how much faster than the device time runs here, rests too. Raises BadInput where
    the device gives no network, or could not hold a published shape.
    """
    phone = profile.load(device)
    network, power = ThermalNetwork.of(phone).faster(faster), ClockPower.of(phone)
    if questions < 1 or tokens < 2 or faster <= 0 or not rests or min(rests) < 0:
        raise BadInput(
            "sustained needs a question, 2 tokens, rests that are not negative and faster above zero"
        )
    if str(model) in SHAPES:
        it = forecast(SHAPES[str(model)], "tiles4", phone, own_runtime(), prompt=_PROMPT, tokens=tokens)
        if not it.fits:
            raise BadInput(
                f"{model} at 4 bits needs {it.memory / 1e9:.2f} GB, {device} allows an app {it.allowed / 1e9:.2f} GB"
            )
    where = model if str(model) in SHAPES else language_folder(model) or model
    decoder = NativeDecoder(where, threads or processors(), _PROMPT + tokens + 1, 4)
    prompt = list(range(300, 300 + _PROMPT))
    asked: dict[float, list[Question]] = {}
    for done, rest in enumerate(rests):
        progress("asking", done / len(rests))
        heat = PhoneHeat(network, power, Governor())
        asked[rest] = sustained_run(
            decoder.stepper(prompt, tokens), heat, questions=questions, steps=tokens, rest=rest / faster
        )
    progress("done", 1.0)
    decoder.close()
    found = {
        rest: find_throttling([each.stamps for each in run]) if len(run) > 3 else None
        for rest, run in asked.items()
    }
    return SustainedResult(device, faster, asked, found)
