"""The memory of speculation is what the runtime takes; budgets choose trees."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.artifact import StoredTensor
from ondevice.errors import BudgetNotMet
from ondevice.kernels import CacheDtype, Kernels, Linear, Matrix
from ondevice.kernels.pages import CACHE_DTYPES
from ondevice.runtime.decode.heads import Heads, HeadsDraft
from ondevice.runtime.decode.memory_model import (
    Generation,
    choose_tree,
    frontier,
    generation_memory,
    lower_bound,
    tree_plans,
)
from ondevice.runtime.decode.speculative import Speculation, TreePace
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.weights.shapes import matrices, vectors

CONFIG = {
    "model_type": "llama", "vocab_size": 6000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 1024,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
HOW = Generation.of(CONFIG, context=256)


def decoder(cache_tokens: int, dtype: CacheDtype) -> Decoder:
    rng = np.random.default_rng(0)
    sizes = {"model.embed_tokens.weight": (6000, 128), "model.norm.weight": (128,)}
    for layer in range(6):
        named = {f"{name}.weight": shape for name, shape in matrices(CONFIG).items()}
        named |= {name: (size,) for name, size in vectors(CONFIG).items()}
        sizes |= {f"model.layers.{layer}.{name}": shape for name, shape in named.items()}
    tensors = {
        name: StoredTensor.dense((rng.standard_normal(shape) * 0.1).astype(np.float32))
        for name, shape in sizes.items()
    }
    return Decoder(tensors, CONFIG, Kernels(1), cache_tokens=cache_tokens, cache_dtype=dtype)


def allocated(nodes: int, heads: int, context: int, texts: int, dtype: CacheDtype) -> int:
    """What writing takes beside the weights: the cache's pages, what the core took, and every array of NumPy."""
    network = decoder(texts * (context + 128) + 2 * 64, dtype)
    rng = np.random.default_rng(1)
    limit = 24 + (context // 64) * (texts - 1)  # the first is still written when the last has been read
    prompts = [rng.integers(0, 6000, context - limit).tolist() for _ in range(texts)]
    network.kernels.most_bytes()
    tracemalloc.start()
    layers = [rng.standard_normal((128, 128)).astype(np.float16) for _ in range(heads)]
    made = [Linear((Matrix.dense(layer),), (np.zeros(128, np.float32),)) for layer in layers]
    pace = TreePace(nodes, rates=np.full((heads, 9), 0.1), fixed=True)
    draft = HeadsDraft(Heads(tuple(made), pace.rates), network, pace)
    run = Engine(network, chunk=64, speculation=Speculation(draft, pace))
    for prompt in prompts:
        run.add(prompt, limit=limit)
    tracemalloc.reset_peak()
    while run.running:
        run.step()
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return network.cache.most_bytes + network.kernels.most_bytes() + traced


@pytest.mark.parametrize("seed", range(20))
def test_the_model_is_within_a_twentieth_of_what_is_allocated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nodes, heads, texts = int(rng.integers(8, 64)), int(rng.integers(2, 5)), int(rng.integers(1, 5))
    context, dtype = 64 * int(rng.integers(3, 12)), CACHE_DTYPES[int(rng.integers(0, 4))]
    tile = 3 if Kernels(1).instruction_set == "avx512" else 1
    how = Generation.of(CONFIG, context=context, texts=texts, cache=dtype, tile=tile)
    counted = allocated(nodes, heads, context, texts, dtype)
    assert generation_memory(how, nodes, heads).total == pytest.approx(counted, rel=0.05)


RATES = np.array([[0.5, 0.1, 0.05], [0.35, 0.1, 0.02], [0.2, 0.05, 0.02]])
PLANS = tree_plans(HOW, RATES, lambda rows: 1.0 + 0.02 * rows, lambda heads: 0.05 * heads)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 20_000_000), st.floats(1.0, 1.6))
def test_a_budget_holds_the_fastest_tree_or_says_what_would(budget: int, least: float) -> None:
    bound = lower_bound(PLANS, least)
    if bound is None or budget < bound:
        with pytest.raises(BudgetNotMet, match="the least that does" if bound else "none does"):
            choose_tree(PLANS, budget, least)
        return
    chosen = choose_tree(PLANS, budget, least)
    assert chosen.memory.total <= budget
    assert chosen.speedup >= least
    assert all(plan.speedup <= chosen.speedup for plan in PLANS if plan.memory.total <= budget)


def test_more_memory_never_makes_it_slower() -> None:
    edge = frontier(PLANS)
    assert [plan.memory.total for plan in edge] == sorted({plan.memory.total for plan in edge})
    assert edge[0].speedup >= 1.0
    assert edge[-1].speedup == max(plan.speedup for plan in PLANS) > 1.3
    with pytest.raises(BudgetNotMet, match="none does at any size"):
        choose_tree(PLANS, 10**12, 5.0)
