"""The planner: which format for which layer, so that the whole fits a budget and loses least.

Knows layers, what each format costs in bytes and at the model's output, and an integer program over both.
Knows nothing of devices, files or reports: a limit is a number here, whatever it stands for.

Every linear layer is quantised by GPTQ at a few widths, every table likewise with the gradients' second
moment in place of the inputs'; `sensitivity.damages` says in one pass what each would cost; HiGHS chooses. In
the spirit of AutoQuantize (NVIDIA Model-Optimizer), with the damage estimated at the output, not by a sweep.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from ondevice.compress.calibration import Calibration
from ondevice.compress.quantize.matrix import SWEEPS, Inputs
from ondevice.compress.quantize.quantize import input_scale, layer_inputs, quantize_embedding, quantize_linear
from ondevice.compress.sensitivity import damages, gradient_moments
from ondevice.errors import BadInput, BudgetNotMet
from ondevice.layers.banded import BandedEmbedding
from ondevice.layers.quantized import QuantizedEmbedding, QuantizedLinear
from ondevice.layers.tied import tied_heads
from ondevice.models.model import Model
from ondevice.numerics.tiles import TiledMatrix, stored_bytes

Progress = Callable[[str, float], None]
_SMOOTH = 0.7  # exponent of the input scales: best of 0.3, 0.5, 0.7, 1.0 on MiniLM
_SAMPLE_ROWS = 6000  # of a table, to estimate a format's damage before the whole table is quantised
_WORKERS = 2
_SENSITIVITY_TEXTS = 64
_BANDED_FROM = 4096  # rows from which a table's frequent and rare rows get formats of their own
_PRIOR = 0.2  # share of Zipf's law in how frequent a token is taken to be


@dataclass(frozen=True, order=True)
class Format:
    """A storage format of the tiled layout."""

    bits: int
    group_size: int


# Few bits want small groups; from six on the multipliers have hardly any values left to differ in.
FORMATS = (Format(2, 32), Format(3, 32), Format(4, 32), Format(5, 32), Format(6, 128), Format(8, 128))


@dataclass(frozen=True)
class Choice:
    """One format for one layer, or for one band of a table's rows: what it takes and what it costs.

    damage: expected loss at the model's output. rows: of the band.
    """

    layer: str
    format: Format
    nbytes: int
    damage: float
    band: int | None = None
    rows: int = 0

    @property
    def part(self) -> str:
        """Names what the choice is for."""
        return self.layer if self.band is None else f"{self.layer}.band.{self.band}"

    def to_json(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"bits": self.format.bits, "group_size": self.format.group_size}
        if self.band is not None:
            settings["rows"] = self.rows
        return {"layer": self.part, "technique": "quantize", "settings": settings, "bytes": self.nbytes}


class Menu:
    """All choices for a model, by part, and how to build what was chosen."""

    choices: dict[str, list[Choice]]

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        formats: Sequence[Format] = FORMATS,
        *,
        counted: Sequence[str] = (),
        seed: int = 0,
        progress: Progress = lambda what, done: None,
    ) -> None:
        """counted: more texts, only tokenised, that say how frequent tokens are.

        Raises BadInput where no layer would become smaller.
        """
        self.model, self._progress = model, progress
        self._built: dict[tuple[str, Format], nn.Module] = {}
        layers: dict[str, nn.Linear | nn.Embedding] = {}
        layers |= model.layers(nn.Embedding)
        layers |= model.layers(nn.Linear)
        self._formats = {
            name: fitting for name, layer in layers.items() if (fitting := _fitting(layer, formats))
        }
        self.linears = {n: it for n in self._formats if isinstance(it := layers[n], nn.Linear)}
        self._tables = {n: it for n in self._formats if isinstance(it := layers[n], nn.Embedding)}
        if not self._formats:
            raise BadInput("the model has no linear layer or embedding that quantising would make smaller")
        progress("input moments", 0.0)
        self._moments = calibration.moments(model)
        prepared: dict[int, tuple[torch.Tensor | None, Inputs]] = {}
        for name, layer in self.linears.items():
            own = self._moments[name]  # query, key and value share theirs
            if id(own) not in prepared:
                scale = input_scale(own, _SMOOTH)
                prepared[id(own)] = (scale, layer_inputs(layer, own, scale))
        self._prepared = {name: prepared[id(self._moments[name])] for name in self.linears}
        texts = _spread(calibration.texts, _SENSITIVITY_TEXTS)
        # tables that are also the head, and its name
        self.heads = {name: head for name, head in tied_heads(model.module).items() if name in self._tables}
        self._table_inputs = {
            name: Inputs(self._moments[head].second)
            for name, head in self.heads.items()
            if name in self._tables
        }
        looked_up = [name for name in self._tables if name not in self._table_inputs]
        if looked_up:
            gradients = gradient_moments(model, texts[::2], looked_up, seed=seed)
            self._table_inputs |= {name: Inputs(gradients[name].double()) for name in looked_up}
        counts = calibration.token_counts(model)
        self._bands = {
            name: _bands(_shares(table, counts[name], model, counted))
            for name, table in self._tables.items()
            if table.num_embeddings >= _BANDED_FROM and name not in self.heads
        }
        cost = self._costs(texts, counts, seed)
        self.choices = {}
        for name in [*self._tables, *self.linears]:
            for band, (rows, share) in enumerate(self._bands.get(name, ((None, 1.0),))):
                options = [
                    Choice(
                        name,
                        form,
                        self._size(name, form, None if rows is None else len(rows)),
                        max(cost[name][form], 0.0) * share,
                        None if rows is None else band,
                        0 if rows is None else len(rows),
                    )
                    for form in self._formats[name]
                ]
                self.choices[options[0].part] = options

    def sketch(self, choices: Iterable[Choice]) -> Model:
        """A model of the very shape that `build` would give, with codes that are all zero: to be weighed."""
        return self._assemble(list(choices), [self._blank(choice) for choice in choices])

    def build(self, choices: Iterable[Choice]) -> Model:
        """The model with these formats; all else is shared with the original. What was built once is kept."""
        chosen = list(choices)
        missing = [choice for choice in chosen if (choice.part, choice.format) not in self._built]
        with ThreadPoolExecutor(_WORKERS) as pool:
            for done, (choice, layer) in enumerate(zip(missing, pool.map(self._final, missing), strict=True)):
                self._built[choice.part, choice.format] = layer
                self._progress("quantising", (done + 1) / len(missing))
        return self._assemble(chosen, [self._built[choice.part, choice.format] for choice in chosen])

    def _assemble(self, chosen: Sequence[Choice], layers: Sequence[nn.Module]) -> Model:
        built = {choice.part: layer for choice, layer in zip(chosen, layers, strict=True)}
        new: dict[str, nn.Module] = {}
        for name in dict.fromkeys(choice.layer for choice in chosen):
            if name in built:
                new[name] = built[name]
                continue
            which = torch.zeros(self._tables[name].num_embeddings, dtype=torch.uint8)
            tables = []
            for band, (rows, _) in enumerate(self._bands[name]):
                assert rows is not None
                which[rows] = band
                table = built[f"{name}.band.{band}"]
                assert isinstance(table, QuantizedEmbedding)
                tables.append(table)
            new[name] = BandedEmbedding(which, tables)
        return self.model.with_modules(new)

    def _blank(self, choice: Choice) -> nn.Module:
        layer = self.linears.get(choice.layer) or self._tables[choice.layer]
        rows, columns = layer.weight.shape
        rows = choice.rows or rows
        groups = -(-columns // choice.format.group_size)
        matrix = TiledMatrix(
            rows, columns, choice.format.bits, choice.format.group_size,
            np.zeros((rows, columns), np.uint8), np.zeros((rows, groups), np.int8), np.zeros(rows, np.float32),
        )  # fmt: skip
        if isinstance(layer, nn.Embedding):
            return QuantizedEmbedding(matrix)
        return QuantizedLinear(matrix, layer.bias, self._prepared[choice.layer][0], "float")

    def _costs(
        self, texts: Sequence[str], counts: Mapping[str, torch.Tensor], seed: int
    ) -> dict[str, dict[Format, float]]:
        """The expected loss of each format for each whole layer, from quick versions of both."""
        differences: dict[str, dict[Format, torch.Tensor]] = {}
        tasks = [(name, form) for name, fitting in self._formats.items() for form in fitting]

        def difference(task: tuple[str, Format]) -> torch.Tensor:
            name, form = task
            if name in self.linears:
                quick = self._linear(name, form, sweeps=0)
                return quick.weight - self.linears[name].weight.detach()
            weight = self._tables[name].weight.detach()
            most = len(weight) if name in self.heads else _SAMPLE_ROWS
            rows = counts[name].argsort(descending=True)[:most].sort().values
            change = torch.zeros_like(weight)
            change[rows] = self._table(name, form, rows, sweeps=0).weight - weight[rows]
            return change

        with ThreadPoolExecutor(_WORKERS) as pool:
            for done, ((name, form), change) in enumerate(
                zip(tasks, pool.map(difference, tasks), strict=True)
            ):
                differences.setdefault(name, {})[form] = change
                self._progress("trying every format", (done + 1) / len(tasks))
        means = {name: self._moments[name].mean.float() for name, layer in self.linears.items()
                 if layer.bias is not None}  # fmt: skip
        return damages(
            self.model,
            texts,
            differences,
            means,
            seed=seed,
            progress=lambda done: self._progress("sensitivity", done),
        )

    def _final(self, choice: Choice) -> nn.Module:
        if choice.layer in self.linears:
            return self._linear(choice.layer, choice.format)
        rows = None if choice.band is None else self._bands[choice.layer][choice.band][0]
        return self._table(choice.layer, choice.format, rows)

    def _linear(self, name: str, form: Format, sweeps: int = SWEEPS) -> QuantizedLinear:
        scale, inputs = self._prepared[name]
        return quantize_linear(
            self.linears[name],
            form.bits,
            form.group_size,
            moments=self._moments[name],
            inputs=inputs,
            scale=scale,
            sweeps=sweeps,
        )

    def _table(
        self, name: str, form: Format, rows: torch.Tensor | None, sweeps: int = SWEEPS
    ) -> QuantizedEmbedding:
        """Rows of a table by GPTQ: the error of a row is judged by the gradients' second moment, or by the inputs' of
        the head that shares it."""
        return quantize_embedding(
            self._tables[name],
            form.bits,
            form.group_size,
            rows=rows,
            inputs=self._table_inputs[name],
            sweeps=sweeps,
        )

    def _size(self, name: str, form: Format, rows: int | None) -> int:
        if name in self._tables:
            all_rows, columns = self._tables[name].weight.shape
            return stored_bytes(all_rows if rows is None else rows, columns, form.bits, form.group_size)
        layer = self.linears[name]
        scale = 0 if self._prepared[name][0] is None else 4 * layer.in_features
        return stored_bytes(layer.out_features, layer.in_features, form.bits, form.group_size) + scale


@dataclass(frozen=True)
class Limit:
    """What a plan may take in all, and what each choice takes of it."""

    name: str
    most: float
    cost: Callable[[Choice], float]


def solve(choices: Mapping[str, Sequence[Choice]], limits: Sequence[Limit]) -> list[Choice]:
    """One choice a layer with the least total damage under all limits: an integer program, by HiGHS.

    Raises BudgetNotMet that names the limit in the way and carries the nearest plan: the smallest by it.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [choice for options in choices.values() for choice in options]
    for limit in limits:
        nearest = [min(options, key=limit.cost) for options in choices.values()]
        least = sum(map(limit.cost, nearest))
        if least > limit.most:
            raise BudgetNotMet(
                f"no plan meets {limit.name}: the smallest takes {least:.4g} of {limit.most:.4g}",
                limit=limit.name,
                nearest=nearest,
            )
    one_each = np.zeros((len(choices), len(flat)))
    at = 0
    for row, options in enumerate(choices.values()):
        one_each[row, at : at + len(options)] = 1
        at += len(options)
    constraints = [LinearConstraint(one_each, 1, 1)]
    for limit in limits:
        costs = np.array([limit.cost(choice) for choice in flat])
        constraints.append(LinearConstraint(costs[None] / limit.most, -np.inf, 1))
    damage = np.array([choice.damage for choice in flat])
    with _silent():
        result = milp(
            damage / max(float(damage.max()), 1e-30),
            constraints=constraints,
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            options={"time_limit": 5.0, "mip_rel_gap": 1e-3},
        )
    if result.x is None:  # each limit can be met alone, not all of them together
        names = " and ".join(limit.name for limit in limits)
        raise BudgetNotMet(f"no plan meets {names} at once", limit=names, nearest=nearest)
    return [choice for choice, taken in zip(flat, result.x, strict=True) if taken > 0.5]


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard output: HiGHS 1.12 writes debug lines there, whatever it is told."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def frontier(
    choices: Mapping[str, Sequence[Choice]], limits: Sequence[Limit], points: int = 12
) -> list[list[Choice]]:
    """Plans from the smallest to the best, at steps of total bytes, all other limits kept."""
    smallest = sum(min(choice.nbytes for choice in options) for options in choices.values())
    largest = sum(max(choice.nbytes for choice in options) for options in choices.values())
    plans = []
    for step in range(points):
        most = smallest * (largest / smallest) ** (step / (points - 1)) + 1
        try:
            plan = solve(choices, [*limits, Limit("storage", most, lambda choice: choice.nbytes)])
        except BudgetNotMet:
            continue
        if plan not in plans:
            plans.append(plan)
    return plans


def smallest(choices: Mapping[str, Sequence[Choice]]) -> list[Choice]:
    """The plan of fewest bytes."""
    return [min(options, key=lambda choice: choice.nbytes) for options in choices.values()]


def predicted_loss(plan: Iterable[Choice]) -> float:
    """Expected loss of a plan, to first order: the damages add up."""
    return math.fsum(choice.damage for choice in plan)


def _fitting(layer: nn.Linear | nn.Embedding, formats: Sequence[Format]) -> list[Format]:
    """The formats for a layer, none with groups wider than it needs; none at all where the finest would not
    make it smaller (a table of two rows), so that no layer is forced to few bits."""
    rows, columns = layer.weight.shape
    widest = -(-columns // 32) * 32
    fitting = sorted({Format(form.bits, min(form.group_size, widest)) for form in formats})
    finest = stored_bytes(rows, columns, fitting[-1].bits, fitting[-1].group_size)
    return fitting if finest < 4 * rows * columns else []


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """About so many texts, evenly from all of them."""
    return list(texts[:: max(1, len(texts) // count)][:count])


def _shares(table: nn.Embedding, counts: torch.Tensor, model: Model, counted: Sequence[str]) -> torch.Tensor:
    """How often each row is looked up, adding to 1: mostly as counted, the rest by Zipf's law over the
    vocabulary's order (which is by frequency, or nearly), so that other texts are thought of too."""
    counts = counts.double()
    if counted:
        ids = torch.tensor([token for tokens in model.tokens(counted) for token in tokens])
        counts = counts + torch.bincount(ids, minlength=len(counts))
    zipf = 1 / torch.arange(1, table.num_embeddings + 1, dtype=torch.float64)
    return (1 - _PRIOR) * counts / counts.sum() + _PRIOR * zipf / zipf.sum()


def _bands(shares: torch.Tensor) -> list[tuple[torch.Tensor | None, float]]:
    """(rows in their order, share of all look-ups) of each band, the most frequent first.

    By Zipf's law a token's frequency falls by four from one edge to the next: worth one bit.
    """
    order = shares.argsort(descending=True)
    edges = [0, *(round(len(order) * part) for part in (1 / 64, 1 / 16, 1 / 4)), len(order)]
    parts = [order[a:b] for a, b in pairwise(edges)]
    return [(rows.sort().values, float(shares[rows].sum())) for rows in parts]
