from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from ondevice.errors import BadInput
from ondevice.runtime.decode.sampling import Sampling


def logits_of(seed: int, count: int = 60) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 1, 5, 40, 100]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_the_distribution_is_that_of_transformers(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = logits_of(seed)
    scores = torch.from_numpy(logits).double()[None]
    chain = [theirs.TemperatureLogitsWarper(temperature)]
    chain += [theirs.TopKLogitsWarper(top_k)] if top_k else []
    chain += [theirs.TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [theirs.MinPLogitsWarper(min_p)] if min_p else []
    for each in chain:
        scores = each(torch.zeros(1, 1, dtype=torch.long), scores)
    want = scores.softmax(dim=1)[0].numpy()
    sampler = Sampling(temperature, top_k, top_p, min_p).sampler()
    kept, probabilities = sampler.distribution(logits.astype(np.float64))
    got = np.zeros(len(logits))
    got[kept] = probabilities
    np.testing.assert_allclose(got, want, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), penalty=st.sampled_from([0.5, 1.3, 2.0]), before=st.lists(st.integers(0, 59))
)
def test_repetition_is_that_of_transformers(seed: int, penalty: float, before: list[int]) -> None:
    logits = logits_of(seed)
    scores = torch.from_numpy(logits)[None]
    if before:
        process = theirs.RepetitionPenaltyLogitsProcessor(penalty)
        scores = process(torch.tensor([before]), scores.clone())
    assert Sampling(repetition=penalty).sampler().choose(logits, before).token == int(scores[0].argmax())


def test_draws_follow_the_distribution_and_the_seed() -> None:
    logits = logits_of(3, 8)
    sampler = Sampling(temperature=1.5, seed=4).sampler()
    draws = [sampler.choose(logits).token for _ in range(4000)]
    shares = np.bincount(draws, minlength=8) / 4000
    want = torch.from_numpy(logits / 1.5).softmax(dim=0).numpy()
    np.testing.assert_allclose(shares, want, atol=0.03)
    again = Sampling(temperature=1.5, seed=4).sampler()
    assert [again.choose(logits).token for _ in range(50)] == draws[:50]
    other = Sampling(temperature=1.5, seed=5).sampler()
    assert [other.choose(logits).token for _ in range(50)] != draws[:50]


def test_logprobs_are_the_models_own() -> None:
    logits = logits_of(9)
    want = torch.from_numpy(logits).double().log_softmax(dim=0)
    choice = Sampling(temperature=0.7, top_k=3, repetition=1.4).sampler().choose(logits, [1, 2, 3])
    assert choice.logprob == pytest.approx(float(want[choice.token]))


@pytest.mark.parametrize(
    "field",
    [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"min_p": -0.1}, {"top_k": -1}, {"repetition": 0}],
)
def test_settings_out_of_range_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=next(iter(field))):
        Sampling(**field)


def test_nan_is_refused() -> None:
    with pytest.raises(BadInput, match="NaN"):
        Sampling().sampler().choose(np.full(5, np.nan, np.float32))
