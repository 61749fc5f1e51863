"""iphone-llm: one quantised language model on four generations of a phone: does it fit, how fast, and how long.

Tokens are really computed and timed here; everything that is said of a phone is modelled from sourced profiles.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ondevice.backends.peers.decoders import NativeDecoder
from ondevice.devices import profile
from ondevice.devices.thermal import ClockPower, Governor, PhoneHeat, ThermalModel, ThermalNetwork
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.sustained import Question, find_throttling, sustained_run
from ondevice.runtime.forecast import Forecast, forecast, own_runtime, scaled
from ondevice.runtime.weights.shapes import SHAPES
from ondevice.systems.registry import Scale, system

PHONES = ("iphone-a14", "iphone-a15", "iphone-a16", "iphone-a17pro")
PROMPT, TOKENS = 32, 128  # of a question
# (published shape here, seconds of back-to-back questions, how much faster than the phone's its time runs)
RUNS = {
    "tiny": ("smollm2-135m", 8.0, 400.0),
    "fast": ("smollm2-360m", 90.0, 20.0),
    "full": ("llama-3.2-1b", 180.0, 20.0),
}
QUESTIONS = 16


@system("iphone-llm")
def prove(scale: Scale) -> Evidence:
    """The integrator is exact, throttling is found in timestamps, models fit where memory says, order of speed."""
    comparisons, notes = (
        _integrator(),
        ["phone figures are modelled from sourced profiles; none was measured on a phone"],
    )
    more, words = _closed_loop(*RUNS[scale.name])
    comparisons += more
    notes += words
    more, words = _verdicts()
    return Evidence(*comparisons, *more, notes=notes + words)


def _integrator() -> list[Comparison]:
    """Steady state against the closed form, energy against what was put in, and half the step, under the governor."""
    network = ThermalNetwork.of(profile.load("iphone-a17pro"))
    model, put, left = ThermalModel(network), 0.0, 0.0
    for _ in range(4 * 3600):
        left += model.step(3.0, 1.0)
        put += 3.0
    closed = network.steady(3.0)
    ends = []
    for step in (1.0, 0.5):
        heat = PhoneHeat(network, ClockPower.of(profile.load("iphone-a17pro")), Governor())
        for _ in range(round(1800 / step)):
            heat.work(step)
        ends.append(heat.model.die)
    off = max(abs(model.die - closed[0]) / closed[0], abs(model.case - closed[1]) / closed[1])
    lost = abs(left + model.stored - put) / put
    return [
        Comparison("steady state off the closed form", "", None, off, absolute("<=", 0.01), kind="modelled"),
        Comparison("energy made or lost", "", None, lost, absolute("<=", 0.005), kind="modelled"),
        Comparison(
            "die at half the step", "K", None, abs(ends[0] - ends[1]), absolute("<=", 0.2), kind="modelled"
        ),
    ]


def _closed_loop(shape: str, seconds: float, faster: float) -> tuple[list[Comparison], list[str]]:
    """A real 4-bit decode under the simulated governor; the analysis sees timestamps alone."""
    phone = profile.load("iphone-a17pro")
    network, power = ThermalNetwork.of(phone).faster(faster), ClockPower.of(phone)
    decoder = NativeDecoder(shape, threads=1, context=PROMPT + TOKENS + 1, bits=4)
    prompt = list(range(300, 300 + PROMPT))
    pace = decoder.generate(prompt, TOKENS)
    # questions of one length that fill the time also when the cap stretches them
    tokens = max(8, min(TOKENS, round(0.7 * seconds / QUESTIONS / (pace.rest / TOKENS))))

    def ask(rest: float, questions: int) -> list[Question]:
        heat = PhoneHeat(network, power, Governor())
        step = decoder.stepper(prompt, tokens)
        return sustained_run(step, heat, questions=questions, steps=tokens, rest=rest)

    # as many questions as the time has room for: answers may be shorter than the time wants them
    questions = max(QUESTIONS, round(0.7 * seconds / (tokens * pace.rest / TOKENS)))
    hot, rested = ask(0.0, questions), ask(seconds / 3, 3)
    decoder.close()
    found = find_throttling([question.stamps for question in hot])
    imposed = next((number for number, each in enumerate(hot) if each.share < 0.99), questions)
    last = float(np.median([each.share for each in hot[-max(2, questions // 4) :]]))
    off = questions if found.onset is None else abs(found.onset - imposed)
    speeds = [float(1 / np.median(np.diff(each.stamps))) for each in rested]
    comparisons = [
        Comparison("onset of throttling, questions off", "", None, off, absolute("<=", 1)),
        Comparison(
            "speed after the drop against the cap",
            "",
            None,
            abs((1 - found.drop) / last - 1),
            absolute("<=", 0.1),
        ),
        Comparison("speed after rests", "tokens/s", speeds[0], min(speeds[1:]), ratio(">=", 0.9)),
    ]
    notes = [
        f"{shape}, 4 bits, 1 thread: {questions} questions of {tokens} tokens, phone time {faster:g} times faster; the "
        f"governor capped from question {imposed + 1} on (modelled), the drop found is {found.drop:.1%} (measured), "
        f"the cap at the end {1 - last:.1%} (modelled), the case at the end {hot[-1].case:.1f} degrees (modelled)",
    ]
    return comparisons, notes


def _verdicts() -> tuple[list[Comparison], list[str]]:
    """Which model fits which phone, and the order of speed with its sensitivity: all modelled."""

    def of(shape: str, phone: str, factor: float = 1.0) -> Forecast:
        runtime = scaled(own_runtime(), factor)
        return forecast(
            SHAPES[shape], "q4_0", profile.load(phone), runtime, prompt=PROMPT, tokens=2048 - PROMPT
        )

    fits = {
        (shape, phone): of(shape, phone).fits for shape in ("llama-3.2-3b", "mistral-7b") for phone in PHONES
    }
    notes = []
    for shape in ("llama-3.2-3b", "mistral-7b"):
        for phone in PHONES:
            it, low, high = (of(shape, phone, factor) for factor in (1.0, 0.8, 1.2))
            need = f"{it.memory / 1e9:.2f} GB of {it.allowed / 1e9:.2f} GB allowed"
            speed = f"; {it.decode:.1f} tokens/s ({low.decode:.1f} to {high.decode:.1f})" if it.decode else ""
            notes.append(f"{shape} on {phone}, modelled: {'fits' if it.fits else 'refused'}, {need}{speed}")
    wanted = {("mistral-7b", phone): phone == "iphone-a17pro" for phone in PHONES}
    wanted |= {("llama-3.2-3b", phone): True for phone in PHONES[1:]}
    wrong = sum(fits[key] != want for key, want in wanted.items())
    speeds = [of("llama-3.2-3b", phone).decode or 0.0 for phone in PHONES]
    disorder = sum(later < earlier * 0.999 for earlier, later in pairwise(speeds))
    return [
        Comparison(
            "verdicts on memory that are wrong, of 7", "", None, wrong, absolute("<=", 0), kind="modelled"
        ),
        Comparison("newer phones that are slower", "", None, disorder, absolute("<=", 0), kind="modelled"),
        Comparison(
            "3 B on A16 against A15", "tokens/s", speeds[1], speeds[2], ratio(">=", 1.2), kind="modelled"
        ),
    ], notes
