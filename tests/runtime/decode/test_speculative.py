"""Speculation changes no token and no probability: greedy, drawn, repeated, stopped, batched, short of room."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ondevice.artifact import StoredTensor
from ondevice.errors import BadInput
from ondevice.kernels import CacheDtype, Kernels
from ondevice.runtime.decode.sampling import Sampling
from ondevice.runtime.decode.speculative import Lookup, Pace, SmallModel, Speculation, TreePace
from ondevice.runtime.decode.tree import Tree
from ondevice.runtime.decoder import Decoder
from ondevice.runtime.engine import Engine
from ondevice.runtime.weights.shapes import matrices, vectors

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 300,
    "tie_word_embeddings": True, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip

SAMPLINGS = [
    Sampling(), Sampling(0.9, seed=5), Sampling(1.2, top_k=9, seed=1), Sampling(repetition=1.3),
    Sampling(0.7, top_p=0.8),
]  # fmt: skip


def decoder(seed: int = 0, **how: Any) -> Decoder:
    rng = np.random.default_rng(seed)
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, 32), "model.norm.weight": (32,)}
    for layer in range(2):
        named = {f"{name}.weight": shape for name, shape in matrices(CONFIG).items()}
        named |= {name: (size,) for name, size in vectors(CONFIG).items()}
        sizes |= {f"model.layers.{layer}.{name}": shape for name, shape in named.items()}
    tensors = {
        name: StoredTensor.dense(
            (rng.standard_normal(shape) * 0.3 if len(shape) > 1 else np.ones(shape)).astype(np.float32)
        )
        for name, shape in sizes.items()
    }
    return Decoder(tensors, CONFIG, Kernels(1), **how)


class Oracle:
    """Guesses that are right with a chance: what was written without guesses, some tokens changed."""

    def __init__(self, text: list[int], wrong: float, seed: int) -> None:
        self.text, self.wrong, self.rng = text, wrong, np.random.default_rng(seed)

    def begin(self) -> Oracle:
        return self

    def guess(self, tokens: Any, most: int) -> Tree:
        ahead = self.text[len(tokens) : len(tokens) + most]
        return Tree.chain([(token + int(self.rng.random() < self.wrong)) % 40 for token in ahead])

    def see(self, state: Any) -> None:
        pass

    def close(self) -> None:
        pass


def write(run: Engine, prompt: list[int], **how: Any) -> list[tuple[int, float]]:
    return [(choice.token, choice.logprob) for choice in run.stream(prompt, **how)]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 39), min_size=1, max_size=80),
    st.sampled_from(SAMPLINGS),
    st.sampled_from(["float32", "float16", "int8", "int4"]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(1, 7),
)  # fmt: skip
def test_tokens_and_probabilities_are_those_of_plain_writing(
    prompt: list[int], sampling: Sampling, cache: CacheDtype, wrong: float, most: int
) -> None:
    plain = write(Engine(decoder(cache_dtype=cache)), prompt, sampling=sampling, limit=70)
    draft = Oracle(prompt + [token for token, _ in plain], wrong, 1)
    speculation = Speculation(draft, Pace(most))
    run = Engine(decoder(cache_dtype=cache), speculation=speculation, keep=1)
    assert write(run, prompt, sampling=sampling, limit=70) == plain  # bit for bit
    assert run.kept.latest() is not None
    kept, sequence = run.kept.latest() or ((), None)
    assert sequence is not None
    assert len(kept) == sequence.length
    if wrong == 0.0:
        assert speculation.tokens_per_pass > 1


def test_texts_side_by_side_accept_different_numbers_of_tokens() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 40, size).tolist() for size in (3, 70, 20, 64)]
    plain = [[token for token, _ in write(Engine(decoder()), each, limit=50)] for each in prompts]

    class Each:
        def __init__(self) -> None:
            self.number = -1

        def begin(self) -> Oracle:
            self.number += 1
            return Oracle(prompts[self.number] + plain[self.number], 0.2 * self.number, self.number)

    run = Engine(decoder(cache_tokens=640), speculation=Speculation(Each()))
    numbers = [run.add(each, limit=50) for each in prompts]
    texts: dict[int, list[int]] = {number: [] for number in numbers}
    steps = 0
    while run.running:
        steps += 1
        for written in run.step():
            texts[written.text].append(written.choice.token)
    assert [texts[number] for number in numbers] == plain
    assert steps < 52


@pytest.mark.parametrize("tokens", [64, 128, 192])
def test_a_cache_that_is_just_large_enough_is_enough_with_guesses_too(tokens: int) -> None:
    prompt = list(range(30)) + list(range(10))
    limit = tokens - len(prompt) + 1
    plain = write(Engine(decoder(cache_tokens=tokens)), prompt, limit=limit)
    draft = Oracle(prompt + [token for token, _ in plain], 0.1, 0)
    assert (
        write(Engine(decoder(cache_tokens=tokens), speculation=Speculation(draft)), prompt, limit=limit)
        == plain
    )


def test_a_stop_token_ends_the_text_among_guesses() -> None:
    prompt = [5, 6, 7]
    plain = [token for token, _ in write(Engine(decoder()), prompt, sampling=Sampling(1.0), limit=40)]
    stop = plain[17]
    run = Engine(decoder(), speculation=Speculation(Oracle(prompt + plain, 0.0, 0)))
    found = write(run, prompt, sampling=Sampling(1.0), limit=40, stops=[stop])
    assert [token for token, _ in found] == plain[: plain.index(stop)]


def test_a_text_that_repeats_is_looked_up() -> None:
    finder = Lookup().begin()
    text = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert finder.guess(text, 3).tokens == (4, 5, 6)
    assert finder.guess([*text, 4, 9], 3).tokens == ()
    assert finder.guess([*text, 4, 9, 1, 2, 3], 2).tokens == (4, 9)  # the last time counts
    with pytest.raises(BadInput, match="cannot be looked up"):
        Lookup(2, 3)


def test_a_small_model_guesses_what_it_would_write() -> None:
    small = decoder()
    draft = SmallModel(small, 40)
    run = Engine(decoder(), speculation=Speculation(draft))
    plain = write(Engine(decoder()), [1, 2, 3], limit=40)
    assert write(run, [1, 2, 3], limit=40) == plain
    assert run.speculation is not None
    assert run.speculation.tokens_per_pass > 2  # it is the same model
    assert small.cache.bytes_used == 0
    other = Engine(decoder(), speculation=Speculation(SmallModel(decoder(seed=9), 40)))
    assert write(other, [1, 2, 3], limit=40) == plain
    with pytest.raises(BadInput, match="same tokenizer"):
        SmallModel(small, 41)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.01, 1), st.floats(0, 0.5), st.floats(0.05, 0.95))
def test_as_many_guesses_are_asked_for_as_pay(base: float, slope: float, chance: float) -> None:
    pace = Pace()
    for rows in [1, 2, 4, 8] * 50:
        pace.timed(rows, base + slope * base * rows)
    for _ in range(500):
        pace.judged(7, int(np.argmin(np.random.default_rng(_).random(8) < np.append(np.full(7, chance), 0))))
    asked = pace.guesses()
    speeds = [sum(chance**i for i in range(n + 1)) / (1 + slope * (1 + n)) for n in range(8)]
    assert speeds[asked] >= 0.8 * max(speeds)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BadInput, match="1 to 7"):
        Pace(8)


class Branching:
    """Trees that hold what was written without guesses, at some rank of each depth, or not."""

    def __init__(self, text: list[int], wrong: float, seed: int, pace: TreePace) -> None:
        self.text, self.wrong, self.rng, self.pace = text, wrong, np.random.default_rng(seed), pace

    def begin(self) -> Branching:
        return self

    def guess(self, tokens: Any, most: int) -> Tree:
        shape = self.pace.shape(most)
        candidates = []
        for depth, width in enumerate(shape.widths()):
            row = self.rng.permutation(40)[: width + 1].tolist()
            at = len(tokens) + depth
            if at < len(self.text) and self.rng.random() >= self.wrong:
                row = [token for token in row if token != self.text[at]]
                row.insert(int(self.rng.integers(0, width)), self.text[at])
            candidates.append(row)
        return shape.filled(candidates)

    def see(self, state: np.ndarray) -> None:
        assert state.shape == (32,)

    def close(self) -> None:
        pass


def pace(seed: int, most: int) -> TreePace:
    return TreePace(most, rates=np.sort(np.random.default_rng(seed).random((4, 3)) / 3)[:, ::-1].copy())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 39), min_size=1, max_size=130), st.sampled_from(SAMPLINGS),
    st.sampled_from(["float32", "float16", "int8", "int4"]), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 20),
    st.integers(0, 99),
)  # fmt: skip
def test_a_tree_changes_no_token_and_no_probability(
    prompt: list[int], sampling: Sampling, cache: CacheDtype, wrong: float, most: int, seed: int
) -> None:
    plain = write(Engine(decoder(cache_dtype=cache)), prompt, sampling=sampling, limit=70)
    shapes = pace(seed, most)
    draft = Branching(prompt + [token for token, _ in plain], wrong, seed, shapes)
    speculation = Speculation(draft, shapes)
    run = Engine(decoder(cache_dtype=cache), speculation=speculation, keep=1)
    assert write(run, prompt, sampling=sampling, limit=70) == plain  # bit for bit
    kept = run.kept.latest()
    assert kept is not None
    assert len(kept[0]) == kept[1].length
    again = write(run, prompt + [token for token, _ in plain[:-1]], sampling=sampling, limit=1)
    assert len(again) == 1  # what was taken from branches is as good as what was read


@pytest.mark.parametrize("tokens", [640, 832])
def test_texts_side_by_side_take_different_numbers_of_branches(tokens: int) -> None:
    """With room for all branches, and with too little for some of them."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 40, size).tolist() for size in (3, 70, 20, 64)]
    plain = [[token for token, _ in write(Engine(decoder()), each, limit=50)] for each in prompts]
    shapes = pace(3, 12)

    class Each:
        def __init__(self) -> None:
            self.number = -1

        def begin(self) -> Branching:
            self.number += 1
            return Branching(
                prompts[self.number] + plain[self.number], 0.2 * self.number, self.number, shapes
            )

    run = Engine(decoder(cache_tokens=tokens), speculation=Speculation(Each(), shapes))
    numbers = [run.add(each, limit=50) for each in prompts]
    texts: dict[int, list[int]] = {number: [] for number in numbers}
    steps = 0
    while run.running:
        steps += 1
        for written in run.step():
            texts[written.text].append(written.choice.token)
    assert [texts[number] for number in numbers] == plain
    assert steps < 50
    assert run.decoder.cache.bytes_used == 0


@pytest.mark.parametrize("tokens", [64, 128, 192])
def test_a_cache_that_is_just_large_enough_is_enough_for_trees_too(tokens: int) -> None:
    prompt = list(range(30)) + list(range(10))
    limit = tokens - len(prompt) + 1
    plain = write(Engine(decoder(cache_tokens=tokens)), prompt, limit=limit)
    shapes = pace(1, 9)
    draft = Branching(prompt + [token for token, _ in plain], 0.1, 0, shapes)
    run = Engine(decoder(cache_tokens=tokens), speculation=Speculation(draft, shapes))
    assert write(run, prompt, limit=limit) == plain


def test_drawn_tokens_have_the_model_s_distribution() -> None:
    """By chi-square, of the first two tokens after a prompt, over many seeds: with trees as without."""
    prompt, sampling, shapes = [3, 1, 4, 1, 5], Sampling(1.5, top_k=4), pace(2, 12)
    network = decoder()
    [rows] = network.step([(network.cache.sequence(), prompt)])
    likely, chances = sampling.sampler().distribution(rows[0].astype(np.float64))
    found: Counter[tuple[int, int]] = Counter()
    draft = Branching([*prompt, int(likely[0]), int(likely[1]), 7], 0.5, 0, shapes)
    for seed in range(600):
        run = Engine(network, speculation=Speculation(draft, shapes))
        first, second = write(run, prompt, sampling=sampling.with_seed(seed), limit=3)[:2]
        found[first[0], second[0]] += 1
    expected: dict[tuple[int, int], float] = {}
    for token, chance in zip(likely.tolist(), chances.tolist(), strict=True):
        [rows] = network.step([(network.cache.sequence(), [*prompt, token])])
        after, then = sampling.sampler().distribution(rows[0].astype(np.float64))
        for other, further in zip(after.tolist(), then.tolist(), strict=True):
            expected[token, other] = chance * further
    assert set(found) <= set(expected)
    common = [pair for pair in expected if 600 * expected[pair] >= 5]
    counts = [*(found[pair] for pair in common), sum(found[pair] for pair in expected if pair not in common)]
    sizes = [*(expected[pair] for pair in common), 1 - sum(expected[pair] for pair in common)]
    if sizes[-1] < 1e-3:
        counts, sizes = counts[:-1], [size / sum(sizes[:-1]) for size in sizes[:-1]]
        counts_total = sum(counts)
    else:
        counts_total = 600
    assert stats.chisquare(counts, [counts_total * size for size in sizes]).pvalue > 1e-3
