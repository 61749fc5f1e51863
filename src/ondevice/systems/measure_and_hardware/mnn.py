"""MNN: what is decided before the first run: a scheme for each convolution, a backend for each operator, all memory.

Every scheme is this project's own kernel. The selector prices schemes by arithmetic and a few rates of the machine; it
runs none of the convolutions that it chooses for. Here they are all measured, to judge it.
"""

from __future__ import annotations

import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.backends.network.reader import OnnxFile
from ondevice.backends.peers.networks import open_peer_network
from ondevice.kernels.convolution import ConvShape, Scheme
from ondevice.kernels.winograd import errors
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import time_callable
from ondevice.models.vision.networks import CONVOLUTIONS, NETWORKS, save_network
from ondevice.runtime.preinfer.alone import alone, random_operands
from ondevice.runtime.preinfer.backends import Operator, exhaustive, schedule
from ondevice.runtime.preinfer.constants import rates_here
from ondevice.runtime.preinfer.graph import one_convolution
from ondevice.runtime.preinfer.prepare import Prepared
from ondevice.runtime.preinfer.schemes import FIXED, Always, Selector, paper_choice, policies
from ondevice.systems.registry import Scale, system

PEERS = ("onnxruntime", "mnn")
counted = partial(Comparison, kind="counted")
Proof = tuple[list[Comparison], dict[str, float], list[str]]  # with seconds of each policy, and notes


@system("mnn")
def prove(scale: Scale) -> Evidence:
    """The choice against every scheme, fixed policies, memory, preparation, the scheduler, exactness, Strassen."""
    selector = Selector(rates_here())
    comparisons, shapes, notes = _choices(selector, scale)
    more, networks, words = _networks(selector, scale)
    seconds = {policy: shapes[policy] + networks[policy] for policy in shapes}
    best = min(FIXED, key=lambda name: seconds[name])
    total = Comparison(
        f"all, against always {best}", "s", seconds[best], seconds["chosen"], ratio("<=", 0.75)
    )
    every = ", ".join(f"{name} {it * 1e3:.1f} ms" for name, it in seconds.items())
    exact = [*_exact(scale), *_strassen(selector, scale)]
    return Evidence(*comparisons, total, *more, *exact, notes=[*notes, f"in all, measured: {every}", *words])


def _choices(selector: Selector, scale: Scale) -> Proof:
    """Every scheme of each shape in turn; the chosen one against the best; its result against torch's."""
    from torch import from_numpy
    from torch.nn.functional import conv2d

    losses, off, totals, notes = [], 0.0, dict.fromkeys(("chosen", *FIXED), 0.0), []
    for shape in CONVOLUTIONS[7:9] if scale.name == "tiny" else CONVOLUTIONS:
        planar = shape.channels < selector.rates.lanes
        choice = selector.choose(shape, planar=planar)
        arms = {str(scheme): alone(shape, scheme, planar=planar) for scheme, _ in choice.considered}
        taken = {name: it.median for name, it in side_by_side(arms, scale.repeats, seed=scale.seed).items()}
        best, chosen = min(taken, key=lambda name: taken[name]), taken[str(choice.scheme)]
        losses.append(chosen / taken[best])
        for name, policy in policies(selector).items():
            totals[name] += taken[str(policy.choose(shape, planar=planar).scheme)]
        x, weights = random_operands(shape, scale.seed)
        got = Prepared(one_convolution(shape, weights), selector).run({"x": x})["y"]
        want = conv2d(from_numpy(x), from_numpy(weights), None, shape.stride, shape.pads[:2]).numpy()
        off = max(off, float(np.abs(want - got).max()))
        notes.append(
            f"{shape.channels} to {shape.outputs}, {shape.out_size}, {shape.kernel}: {choice.scheme}, modelled "
            f"{choice.seconds * 1e3:.2f} ms, measured {chosen * 1e3:.2f}; best {best} {taken[best] * 1e3:.2f}; by the "
            f"paper's count alone {paper_choice(shape)}"
        )
    mean = float(np.exp(np.log(losses).mean()))
    comparisons = [
        Comparison("chosen over best scheme, geometric mean", "", None, mean, absolute("<=", 1.15)),
        Comparison("chosen over best scheme, worst shape", "", None, max(losses), absolute("<=", 1.6)),
        Comparison("convolutions off torch's", "", None, off, absolute("<=", 1e-3)),
    ]
    return comparisons, totals, notes


def _networks(selector: Selector, scale: Scale) -> Proof:
    """Both networks under each policy; their memory; what preparation saves; other engines on the same file."""
    totals, comparisons, notes = dict.fromkeys(("chosen", *FIXED), 0.0), [], []
    size = 64 if scale.name == "tiny" else 224
    x = np.random.default_rng(scale.seed).standard_normal((1, 3, size, size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS[1:] if scale.name == "tiny" else NETWORKS:
            path = save_network(name, Path(folder) / f"{name}.onnx", size=size, seed=scale.seed)
            graph = OnnxFile(path).graph({})
            ready = {policy: Prepared(graph, chooser) for policy, chooser in policies(selector).items()}
            arms: dict[str, Any] = {policy: partial(it.run, {"pictures": x}) for policy, it in ready.items()}
            arms |= {it: partial(open_peer_network(it, path, x.shape), x) for it in PEERS}
            anew = time_callable(lambda: Prepared(graph, selector).run({"pictures": x}), 3, 0)  # noqa: B023
            taken = side_by_side(arms, scale.repeats, seed=scale.seed)
            totals = {policy: before + taken[policy].median for policy, before in totals.items()}
            row = ", ".join(f"{arm} {figure.median * 1e3:.2f} ms" for arm, figure in taken.items())
            notes.append(f"{name}, 1 thread, measured: {row}")
            own, got = ready["chosen"], arms["chosen"]()["logits"]
            for engine in PEERS:
                want = arms[engine]()
                off = float(np.abs(got - want).max() / np.abs(want).max())
                comparisons.append(Comparison(f"{name}: off {engine}'s", "", None, off, absolute("<=", 1e-3)))
            arena, bound, made = (4 * floats for floats in (own.memory.size, own.memory.bound, own.results))
            comparisons += [
                counted(f"{name}: arena, all results", "bytes", made, arena, ratio("<=", 0.5)),
                counted(f"{name}: arena, what must live", "bytes", bound, arena, ratio("<=", 1.05)),
                Comparison(f"{name}: prepared, prepared anew", "s", anew, taken["chosen"], ratio("<=", 0.9)),
            ]
    return comparisons, totals, notes


def _exact(scale: Scale) -> list[Comparison]:
    """The scheduler against all assignments; Winograd's identity in fractions."""
    random, dearer, none = np.random.default_rng(scale.seed), 0, absolute("<=", 0)
    for _ in range(20 if scale.name == "tiny" else 200):
        costs, copies = random.uniform(0, 10, (10, 2)), random.uniform(0, 5, 10)
        edges = random.random((10, 10)) < 0.3
        graph = [Operator(tuple(costs[i]), tuple(np.flatnonzero(edges[i, :i])), copies[i]) for i in range(10)]
        dearer += schedule(graph).cost > exhaustive(graph).cost + 1e-9
    wrong = sum(errors(n, k) for n, k in product(range(1, 7), range(2, 8)))
    return [
        counted("assignments dearer than the cheapest", "", None, dearer, none),
        counted("coefficients of F(1..6, 2..7) that are off", "", None, wrong, none),
    ]


def _strassen(selector: Selector, scale: Scale) -> list[Comparison]:
    """A product of 1024 x 1024 x 1024, as a convolution of single pixels: by Strassen and plain."""
    shape, scheme = ConvShape(1, 1024, 1024, 32, 32, (1, 1)), Scheme("strassen", levels=1)
    x, weights = random_operands(shape, scale.seed)
    got = (
        Prepared(one_convolution(shape, weights), Always(selector, scheme))
        .run({"x": x})["y"]
        .reshape(1024, -1)
    )
    want = weights[:, :, 0, 0].astype(float) @ x.reshape(1024, -1)
    off = float(np.linalg.norm(got - want) / np.linalg.norm(want))
    taken = side_by_side({it.kind: alone(shape, it) for it in (Scheme("direct"), scheme)}, scale.repeats)
    return [
        Comparison("Strassen at 1024, relative error", "", None, off, absolute("<=", 1e-4)),
        Comparison("Strassen at 1024", "s", taken["direct"], taken["strassen"], ratio("<=", 1.0)),
    ]
