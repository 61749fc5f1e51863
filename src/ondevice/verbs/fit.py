"""fit: a model, a device and a budget become an artifact that meets it, with proof of what was lost.

Composes loading, techniques, the planner, the artifact and the measures; the command line only parses and prints.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ondevice.artifact import Artifact, Contents, stored_size, write_files
from ondevice.atomic import reserve, writing
from ondevice.devices import profile
from ondevice.devices.budget import Budget
from ondevice.devices.energy import energy
from ondevice.devices.roofline import latency
from ondevice.errors import BudgetNotMet, DeviceUnknown, MissingExtra
from ondevice.verbs.judge import judge_of, judged_texts

if TYPE_CHECKING:
    from ondevice.compress.planner import Choice, Limit, Menu
    from ondevice.compress.technique import Technique
    from ondevice.data.text import Corpus
    from ondevice.devices.profile import Device
    from ondevice.models.model import Model

Progress = Callable[[str, float], None]
_CALIBRATION_TEXTS, _VALIDATION_TEXTS, _TEST_ROWS = 512, 96, 400
# A language model answers at every token, so less text will do: characters.
_CALIBRATION_SIZE, _VALIDATION_SIZE, _TEST_SIZE = 250_000, 25_000, 120_000
_SPARE = 6144  # bytes kept free for what is only known at the end: the measured figures


@dataclass(frozen=True)
class FitResult:
    """What a fit made. storage_bytes: the whole folder but the report. memory_bytes: peak resident memory of a
    fresh process that embeds, classifies or goes on with one text here. inference: what a latency is of.
    latency, pareto, plan: as `to_json` says."""

    artifact: Path
    meets_budget: bool
    storage_bytes: int
    memory_bytes: int
    quality: dict[str, dict[str, Any]]
    latency: list[dict[str, Any]]
    plan: list[dict[str, Any]]
    pareto: list[dict[str, Any]]
    original_storage_bytes: int
    inference: str
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The document that `ondevice fit --json` prints."""
        return vars(self) | {"artifact": str(self.artifact), "memory_kind": "measured"}


def fit(
    model: str | Path | Model,
    *,
    out: str | Path,
    device: str | Path | Device = "here",
    budget: Budget | None = None,
    techniques: Sequence[str | Technique] = (),
    data: str | Path | Corpus | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Progress = lambda what, done: None,
    command: str = "",
) -> FitResult:
    """Make a model fit a device and a budget; write the artifact and its report to the folder `out`.

    model: a local folder, a packaged name ("minilm"), a name of the zoo ("reference-lm"), a hub name, or a `Model`.
    budget: limits and a floor on quality; None plans for the least loss at the size of 8-bit weights.
    techniques: applied first, in their order, as values or as on the command line ("lowrank:rank=0.5"); the
        planner then chooses formats for what is left, unless "quantize" is among them.
    data: texts to calibrate and judge with (see `ondevice.data.text.texts`); None for the documentation of the
        running Python, for a language model also that of the system.
    Raises BudgetNotMet (nothing is written) that names the limit in the way and carries the nearest plan;
    BadInput where `out` exists and overwrite is False.
    """
    _require_fit()
    from ondevice.models.load import load

    budget = budget or Budget()
    target = _device(device)
    with reserve(out, overwrite=overwrite) as place:
        progress("reading", 0.0)
        original = load(model, revision=revision) if isinstance(model, (str, Path)) else model
        corpus = _corpus(data, language=original.task.kind == "language")
        progress("reading", 1.0)
        fitting = _Fitting(original, target, budget, corpus, seed, progress)
        candidate = fitting.candidate([_technique(each) for each in techniques])
        with writing(place) as fresh:
            return fitting.finish(candidate, fresh, place, command or _command())


@dataclass
class _Candidate:
    """A model that may be kept, and how it came about. overhead: bytes of the artifact besides the choices."""

    model: Model
    pareto: list[dict[str, Any]]
    techniques: list[dict[str, Any]]


class _Fitting:
    def __init__(
        self, original: Model, device: Device, budget: Budget, corpus: Corpus, seed: int, progress: Progress
    ) -> None:
        from ondevice.compress.calibration import Calibration

        self.original, self.device, self.budget = original, device, budget
        self.corpus, self.seed, self.progress = corpus, seed, progress
        self.judge = judge_of(original)
        texts = corpus.calibration.texts
        if original.task.kind == "language":
            chosen = list(texts[:: _step(texts, _CALIBRATION_SIZE + _VALIDATION_SIZE)])
            share = _VALIDATION_SIZE / (_CALIBRATION_SIZE + _VALIDATION_SIZE)
            held = max(1, round(len(chosen) * share))
            self.test = corpus.test.take(range(0, len(corpus.test), _step(corpus.test.texts, _TEST_SIZE)))
        else:
            chosen = list(texts[:: max(1, len(texts) // (_CALIBRATION_TEXTS + _VALIDATION_TEXTS))])
            held = max(1, min(_VALIDATION_TEXTS, len(chosen) // 4))
            self.test = judged_texts(corpus.test, _TEST_ROWS)
        self.validation = chosen[::-1][:held]
        self.calibration = Calibration(chosen[: len(chosen) - held] or chosen)

    def candidate(self, techniques: Sequence[Technique]) -> _Candidate:
        """The best model that meets the budget as far as it is counted or modelled."""
        from ondevice.compress.plan import Plan
        from ondevice.compress.quantize.quantize import Quantize

        plan = Plan(techniques)
        start = plan.apply(self.original, self.calibration) if techniques else self.original
        if any(isinstance(technique, Quantize) for technique in techniques):
            self._must_fit(start)
            return _Candidate(start, [self._point(start, chosen=True)], plan.to_json())
        return self._planned(start, plan.to_json())

    def _planned(self, start: Model, techniques: list[dict[str, Any]]) -> _Candidate:
        from ondevice.compress.planner import Menu, frontier, predicted_loss, solve

        menu = Menu(start, self.calibration, counted=self.corpus.calibration.texts, seed=self.seed,
                    progress=self.progress)  # fmt: skip
        overhead = self._overhead(start, menu)
        limits = self._limits(menu, overhead)
        finalists = _finalists(menu, limits)
        measured: list[tuple[float, list[Choice], Model]] = []
        for plan in finalists:
            built = menu.build(plan)
            measured.append((self._loss(built), plan, built))
        loss, best, built = min(measured, key=lambda each: each[0])
        while (
            excess := stored_size(self._contents(built)) + _SPARE - (self.budget.storage or sys.maxsize)
        ) > 0:
            # the padding between tensors differs a little from plan to plan
            overhead += excess
            best = solve(menu.choices, self._limits(menu, overhead))
            built = menu.build(best)
            loss = self._loss(built)
        pareto = [
            self._modelled_point(menu, plan, overhead, predicted_loss(plan))
            for plan in frontier(menu.choices, self._limits(menu, overhead, storage=False))
        ]
        for other_loss, plan, _ in measured:
            if plan is not best:
                pareto.append(self._modelled_point(menu, plan, overhead, other_loss, kind="measured"))
        pareto.append(self._modelled_point(menu, best, overhead, loss, kind="measured", chosen=True))
        return _Candidate(built, sorted(pareto, key=lambda point: point["storage_bytes"]), techniques)

    def finish(self, candidate: _Candidate, fresh: Path, place: Path, command: str) -> FitResult:
        """Write, open as a user would, measure, judge, and write again with the figures."""
        from ondevice.compress.plan import describe
        from ondevice.measure.here import machine
        from ondevice.measure.memory import run_command
        from ondevice.measure.report import write_report

        contents = self._contents(candidate.model)
        write_files(fresh, contents)
        verdict = self.judge.verdict(fresh, self.test, self.progress)
        metrics, times = verdict.metrics, verdict.times
        memory = run_command(self.judge.command(fresh, self.test.texts[0])).peak_bytes
        storage = Artifact(fresh).storage_bytes
        self._check("quality", verdict.level, at_least=self.budget.quality)
        self._check("memory", memory, at_most=self.budget.memory)
        self._check("storage", storage, at_most=self.budget.storage)
        self._check("latency", self._latency(candidate.model), at_most=self.budget.latency)
        if self.budget.energy is not None:
            self._check("energy", self._energy(candidate.model), at_most=self.budget.energy)
        latencies = [
            {"where": f"here, {name}", "kind": "measured", "n": figure.n}
            | {f"{part}_ms": 1e3 * getattr(figure, part) for part in ("median", "min", "max")}
            for name, figure in times.items()
        ]
        if self.device.name != "here":
            for name, subject in (("fitted", candidate.model), ("original", self.original)):
                milliseconds = 1e3 * self._latency(subject)
                latencies.append(
                    {"where": f"{self.device.name}, {name}", "kind": "modelled", "n": 1}
                    | {f"{part}_ms": milliseconds for part in ("median", "min", "max")}
                )
        provenance = contents.provenance | {"machine": machine(), "device": self.device.name}
        result = FitResult(
            artifact=place,
            meets_budget=True,
            storage_bytes=storage,
            memory_bytes=memory,
            quality={name: each.to_json() for name, each in metrics.items()},
            latency=latencies,
            plan=describe(candidate.model.module),
            pareto=candidate.pareto,
            original_storage_bytes=stored_size(self._contents(self.original)),
            inference=self.judge.inference,
            provenance=provenance,
        )
        figures = {"quality": result.quality, "latency": result.latency, "memory_bytes": memory}
        provenance = provenance | {"techniques": candidate.techniques}
        write_files(
            fresh, replace(contents, measured=figures, plan=_short(result.plan), provenance=provenance)
        )
        result = replace(result, storage_bytes=Artifact(fresh).storage_bytes)
        self._check("storage", result.storage_bytes, at_most=self.budget.storage)
        title = f"{self.original.source.name} on {self.device.title}"
        write_report(
            fresh / "report.html",
            result.to_json()
            | {"title": title, "command": command, "device": self.device.title, "budget": vars(self.budget)},
        )
        self.progress("done", 1.0)
        return result

    def _limits(self, menu: Menu, overhead: int, *, storage: bool = True) -> list[Limit]:
        from ondevice.compress.planner import Limit

        limits = []
        if storage and self.budget.storage is not None:
            limits.append(Limit("storage", self.budget.storage - overhead, lambda choice: choice.nbytes))
        memory = min(self.budget.memory or sys.maxsize, int(self.device.memory_limit.value))
        limits.append(Limit("memory", memory - _RUNTIME_BYTES - overhead, lambda choice: choice.nbytes))
        for name, most, cost in (
            ("latency", self.budget.latency, latency),
            ("energy", self.budget.energy, energy),
        ):
            if most is not None:
                limits.append(self._roofline_limit(menu, name, most, cost))
        return limits

    def _roofline_limit(self, menu: Menu, name: str, most: float, cost: Callable[..., float]) -> Limit:
        """What a choice's layer costs on the device; what no choice changes is taken off the limit."""
        from ondevice.compress.planner import Limit
        from ondevice.models.work import linear_operation

        heads = {table: menu.model.module.get_submodule(head) for table, head in menu.heads.items()}
        layers: dict[str, Any] = menu.linears | heads  # what a choice is for
        planned = {*menu.linears, *menu.heads.values()}
        fixed = [operation for operation in self.judge.work(menu.model) if operation.name not in planned]
        seen: dict[tuple[str, int], float] = {}

        def of(choice: Choice) -> float:
            key = (choice.layer, choice.nbytes)
            if choice.layer not in layers:
                return 0.0
            if key not in seen:
                layer = layers[choice.layer]
                operation = linear_operation(choice.layer, layer, self.judge.rows, choice.nbytes)
                seen[key] = cost([operation], self.device)
            return seen[key]

        return Limit(name, most - cost(fixed, self.device), of)

    def _overhead(self, start: Model, menu: Menu) -> int:
        """Bytes of an artifact that no choice changes."""
        from ondevice.compress.planner import smallest

        plan = smallest(menu.choices)
        size = stored_size(self._contents(menu.sketch(plan)))
        return size - sum(choice.nbytes for choice in plan) + _SPARE

    def _must_fit(self, model: Model) -> None:
        size = stored_size(self._contents(model)) + _SPARE
        self._check("storage", size, at_most=self.budget.storage)

    def _check(
        self, name: str, value: float, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        if at_most is not None and value > at_most:
            raise BudgetNotMet(f"the {name} is {value:.6g}, the budget {at_most:.6g}", limit=name)
        if at_least is not None and value < at_least:
            raise BudgetNotMet(f"the {name} is {value:.6g}, the floor {at_least:.6g}", limit=name)

    def _contents(self, model: Model) -> Contents:
        from ondevice.layers.store import to_stored

        source = model.source
        tokenizer = json.loads(model.tokenizer.to_str()) | {"padding": None, "truncation": None}
        return Contents(
            config=model.config,
            tokenizer=json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
            task=model.task.to_json(),
            tensors=to_stored(model.module),
            provenance={
                "name": source.name,
                "revision": source.revision,
                "data": self.corpus.fingerprint(),
                "seed": self.seed,
            },
            licence=source.licence,
        )

    def _loss(self, model: Model) -> float:
        self.progress("measuring a plan", 0.0)
        return self.judge.loss(model, self.validation)

    def _latency(self, model: Model) -> float:
        return latency(self.judge.work(model), self.device)

    def _energy(self, model: Model) -> float:
        return energy(self.judge.work(model), self.device)

    def _point(self, model: Model, *, chosen: bool) -> dict[str, Any]:
        return {
            "storage_bytes": stored_size(self._contents(model)),
            "quality": 1 - self._loss(model),
            "modelled_latency_ms": 1e3 * self._latency(model),
            "chosen": chosen,
            "kind": "measured",
        }

    def _modelled_point(
        self, menu: Menu, plan: Sequence[Choice], overhead: int, loss: float, *, kind: str = "modelled",
        chosen: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        limit = self._roofline_limit(menu, "latency", 0.0, latency)
        return {
            "storage_bytes": overhead - _SPARE + sum(choice.nbytes for choice in plan),
            "quality": 1 - loss,
            "modelled_latency_ms": 1e3 * (sum(map(limit.cost, plan)) - limit.most),
            "chosen": chosen,
            "kind": kind,
        }


# Python, NumPy, the tokenizer and the core's scratch memory beside the weights, as measured with MiniLM.
_RUNTIME_BYTES = 90_000_000


def _finalists(menu: Menu, limits: list[Limit]) -> list[list[Choice]]:
    """The plan of least expected loss, and two that trust the expectation less: one that takes rare tokens
    for more frequent than counted, one that avoids the coarsest formats."""
    from ondevice.compress.planner import solve

    wary = {
        part: [replace(choice, damage=choice.damage * (1 + (choice.band or 0))) for choice in options]
        for part, options in menu.choices.items()
    }
    fine = {
        part: [c for c in options if c.format.bits > 2] or options for part, options in menu.choices.items()
    }
    by_key = {(c.part, c.format): c for options in menu.choices.values() for c in options}
    plans: list[list[Choice]] = []
    for choices in (menu.choices, wary, fine):
        try:
            plan = [by_key[c.part, c.format] for c in solve(choices, limits)]
        except BudgetNotMet:
            if choices is menu.choices:
                raise
            continue
        if plan not in plans:
            plans.append(plan)
    return plans


def _short(plan: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The plan without what the tensors' formats say already."""
    return [
        {"layer": row["layer"], "technique": row["technique"]} for row in plan if row["technique"] != "none"
    ]


def _corpus(data: str | Path | Corpus | None, *, language: bool) -> Corpus:
    from ondevice.data.text import Corpus, documentation, python_docs, texts

    if data is None:
        return documentation() if language else python_docs()
    return data if isinstance(data, Corpus) else texts(data).split()


def _step(texts: Sequence[str], size: int) -> int:
    """Every which text to take for about so many characters in all."""
    return max(1, round(sum(map(len, texts)) / size))


def _technique(given: str | Technique) -> Technique:
    from ondevice.compress.technique import parse

    return parse(given) if isinstance(given, str) else given


def _device(given: str | Path | Device) -> Device:
    if not isinstance(given, (str, Path)):
        return given
    try:
        return profile.load(given)
    except DeviceUnknown:
        if str(given) != "here":
            raise
        from ondevice.measure.here import measure_here

        return measure_here()


def _command() -> str:
    return (
        shlex.join(["ondevice", *sys.argv[1:]]) if sys.argv[:1] and sys.argv[0].endswith("ondevice") else ""
    )


def _require_fit() -> None:
    try:
        import scipy  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as missing:
        raise MissingExtra(missing.name or "torch", "fit", "to fit models") from missing
