"""MLX transformers: BERT, RoBERTa and XLM-RoBERTa from Hugging Face checkpoints on MLX, against PyTorch.

The speed claim belongs to Apple silicon. Elsewhere MLX multiplies matrices far slower than PyTorch does: the
ratio is printed as measured, and judged only where Metal is.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ondevice.data.text import python_docs
from ondevice.errors import MissingExtra
from ondevice.measure.compare import Comparison, Evidence, absolute, ratio
from ondevice.measure.memory import call_fresh
from ondevice.measure.sidebyside import side_by_side
from ondevice.measure.timing import Figure
from ondevice.systems.registry import Scale, system

_ROBERTA = {"type_vocab_size": 1, "max_position_embeddings": 514, "pad_token_id": 1, "layer_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {  # as published; their other fields are transformers' defaults
    "bert-base": {"model_type": "bert", "vocab_size": 30522},
    "roberta-base": {"model_type": "roberta", "vocab_size": 50265, **_ROBERTA},
    "xlm-roberta-base": {"model_type": "xlm-roberta", "vocab_size": 250002, **_ROBERTA},
}
# (batch, tokens) of the latency table. A processor takes a second a hundred tokens of MiniLM.
GRID = [(batch, tokens) for batch in (1, 8, 32) for tokens in (50, 100, 200, 500)]
GRIDS_WITHOUT_METAL = {"fast": [(1, 25), (1, 50), (4, 25)], "full": [(1, 50), (1, 100), (8, 50)]}


@system("mlx-transformers")
def prove(scale: Scale) -> Evidence:
    """It agrees with transformers, loads without a copy, adds little to its matrix products; the table."""
    try:
        import mlx.core as mx
        import torch  # noqa: F401

        from ondevice.backends.mlx.session import MlxSession, read_network
        from ondevice.models.checkpoint import read_checkpoint
        from ondevice.models.load import load, packaged
    except ImportError as error:
        raise MissingExtra(error.name or "mlx", "mlx,demo", "to prove mlx-transformers") from error

    metal = mx.metal.is_available()
    grid = GRID if metal else GRIDS_WITHOUT_METAL[scale.name]
    comparisons: list[Comparison] = []
    table: dict[str, Figure] = {}
    for name, config in SHAPES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            module = _random_checkpoint(config, folder, scale.seed)
            network = read_network(read_checkpoint(folder))
            comparisons.append(_agreement(name, network, module, scale.seed))
            table |= _latencies(name, network, module, grid[:1], scale, metal)
            del network, module
            if name == "bert-base":
                comparisons += _loading(folder)

    model = load("minilm")
    session = MlxSession(read_network(read_checkpoint(packaged("minilm"))), model.tokenizer, model.task)
    sentences = python_docs().test.queries[:50]
    cosine = float((session.embed(sentences) * model.predict(sentences)).sum(axis=1).min())
    comparisons += [
        Comparison("minilm: least cosine of 50 sentences", "", None, cosine, absolute(">=", 0.99999)),
        _overhead("minilm", session.network, 64, scale),
    ]
    table |= _latencies("minilm", session.network, model.module, grid, scale, metal)

    wanted = 2 * (len(SHAPES) + len(grid))
    rows = sum(not name.endswith("compiled") and figure.n >= 3 for name, figure in table.items())
    comparisons.append(
        Comparison("rows of the latency table", "", wanted, rows, ratio(">=", 1.0), kind="counted")
    )
    if metal:
        theirs, ours = table["minilm 1x100, torch"], table["minilm 1x100, mlx"]
        comparisons.append(
            Comparison("minilm 1x100: MLX against PyTorch", "s", theirs, ours, ratio("<=", 1.0))
        )
    return Evidence(*comparisons, notes=_notes(table, metal))


def _agreement(name: str, network: Any, module: Any, seed: int) -> Comparison:
    """Largest difference to transformers over a padded batch of texts of unequal lengths."""
    import torch

    from ondevice.backends.mlx.session import run
    from ondevice.backends.session import padded

    random = np.random.default_rng(seed)
    token_ids = [random.integers(5, network.arguments.vocabulary, length).tolist() for length in (24, 13, 2)]
    ids, mask = (torch.from_numpy(array) for array in padded(token_ids, network.arguments.padding))
    with torch.inference_mode():
        expected = module(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
    worst = max(
        float(np.abs(states - expected[row, : len(states)]).max())
        for row, states in enumerate(run(network, token_ids))
    )
    return Comparison(f"{name}: largest difference of a hidden state", "", None, worst, absolute("<=", 2e-4))


def _loading(folder: Path) -> list[Comparison]:
    """What a fresh process, Python and MLX included, writes and holds while it loads a checkpoint."""
    size = float(sum(path.stat().st_size for path in folder.glob("*.safetensors")))
    files = set(folder.rglob("*"))
    written, peak = call_fresh(_load_and_watch, str(folder))
    added = len(set(folder.rglob("*")) - files)
    return [
        Comparison("bytes written while loading", "bytes", None, float(written), absolute("<=", 0)),
        Comparison("files added to the checkpoint", "", None, float(added), absolute("<=", 0)),
        Comparison("peak memory of a process that loads", "bytes", size, float(peak), ratio("<=", 2.2)),
    ]


def _overhead(name: str, network: Any, tokens: int, scale: Scale) -> Comparison:
    """A pass over one text against its matrix products alone."""
    import mlx.core as mx

    ids = mx.array(np.random.default_rng(scale.seed).integers(5, network.arguments.vocabulary, (1, tokens)))
    products = _products(network, tokens)
    arms = side_by_side(
        {
            "products": lambda: mx.eval([a @ b for a, b in products]),
            "network": lambda: mx.eval(network.encode(ids)),
        },
        scale.repeats,
        warmup=2,
        seed=scale.seed,
    )
    metric = f"{name} 1x{tokens}: latency against its matrix products alone"
    return Comparison(metric, "s", arms["products"], arms["network"], ratio("<=", 1.25))


def _latencies(
    name: str, network: Any, module: Any, grid: list[tuple[int, int]], scale: Scale, metal: bool
) -> dict[str, Figure]:
    """Rows of the latency table: seconds of a pass over a batch without padding, by PyTorch and by MLX.

    On a processor MLX has one thread, so PyTorch gets one.
    """
    import mlx.core as mx
    import torch

    device = "mps" if metal and torch.backends.mps.is_available() else "cpu"
    module, random = module.to(device), np.random.default_rng(scale.seed)
    compiled = mx.compile(lambda x: network.encode(x)) if metal or scale.name == "full" else None
    rows: dict[str, Figure] = {}

    def by_torch(ids: Any) -> None:
        with torch.inference_mode():
            module(input_ids=ids).last_hidden_state.cpu()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for batch, tokens in grid:
        ids = random.integers(5, network.arguments.vocabulary, (batch, tokens))
        ours, theirs = mx.array(ids), torch.from_numpy(ids).to(device)
        arms: dict[str, Callable[[], object]] = {
            "torch": partial(by_torch, theirs),
            "mlx": lambda ours=ours: mx.eval(network.encode(ours)),  # type: ignore[misc]
        }
        if compiled:
            arms["mlx compiled"] = lambda ours=ours: mx.eval(compiled(ours))  # type: ignore[misc]
        figures = side_by_side(arms, max(3, scale.repeats // 5), warmup=2, seed=scale.seed)
        rows |= {f"{name} {batch}x{tokens}, {arm}": figure for arm, figure in figures.items()}
    torch.set_num_threads(threads)
    return rows


def _random_checkpoint(config: dict[str, Any], folder: Path, seed: int) -> Any:
    """Write a checkpoint of a published shape with random weights; returns transformers' module of it."""
    import torch
    from safetensors.torch import save_file

    from ondevice.models.load import skeleton
    from ondevice.models.tasks import Task

    module = skeleton(config, Task("embedding")).to_empty(device="cpu").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        parameter.normal_(1.0 if "LayerNorm.weight" in name else 0.0, 0.02, generator=generator)
    for name, buffer in module.named_buffers():
        buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape) if "position" in name else 0)
    module.config.save_pretrained(folder)
    save_file(module.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    return module


def _load_and_watch(folder: str) -> int:
    """Bytes that this process writes while it loads a checkpoint."""
    from ondevice.backends.mlx.session import read_network
    from ondevice.models.checkpoint import read_checkpoint

    before = _written()
    read_network(read_checkpoint(Path(folder)))
    return _written() - before


def _written() -> int:
    counters = Path("/proc/self/io")
    if counters.exists():
        return int(dict(line.split(": ") for line in counters.read_text().splitlines())["wchar"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * 512


def _products(network: Any, tokens: int) -> list[tuple[Any, Any]]:
    """Operands of every matrix product of one pass over one text, as the network multiplies them."""
    import mlx.core as mx

    arguments = network.arguments
    size = arguments.width // arguments.heads
    inputs = {width: mx.random.normal((tokens, width)) for width in (arguments.width, arguments.inner)}
    query, scores = (mx.random.normal((arguments.heads, tokens, n)) for n in (size, tokens))
    mx.eval(query, scores, *inputs.values())
    products = []
    for layer in network.layers:
        linear = [layer.query, layer.key, layer.value, layer.out, layer.up, layer.down]
        products += [(inputs[each.weight.shape[1]], each.weight.T) for each in linear]
        products += [(query, query.transpose(0, 2, 1)), (scores, query)]
    return products


def _notes(table: dict[str, Figure], metal: bool) -> list[str]:
    notes = []
    for name, figure in table.items():
        low, middle, high = (1e3 * value for value in np.quantile(figure.samples, [0.25, 0.5, 0.75]))
        notes.append(
            f"latency, {name}: median {middle:.1f} ms, quartiles {low:.1f} to {high:.1f}, n={figure.n}"
        )
    for name in [name.removesuffix(", mlx") for name in table if name.endswith(", mlx")]:
        times = table[f"{name}, mlx"].median / table[f"{name}, torch"].median
        notes.append(f"{name}: MLX takes {times:.2f} times as long as PyTorch, measured")
    if not metal:
        notes.append("PyTorch and MLX have one thread each")
        notes.append("the speed claim belongs to Apple silicon and is not testable on this host")
        notes.append(f"without Metal the table is cut to {len(table)} rows, those that take seconds")
    return notes
