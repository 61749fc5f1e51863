"""Outlier codes: what they promise, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ondevice.errors import BadInput
from ondevice.hardware.ecc import Hamming, OutlierECC, flip, flip_values

CODE = OutlierECC(256, 5)


def page(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((1, 256)) * 30
    return np.clip(values, -127, 127).astype(np.int8)


def protected(values: np.ndarray) -> np.ndarray:
    return np.argsort(-np.abs(values[0].astype(int)), kind="stable")[:5]


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 20), st.integers(0, 2**20 - 1), st.lists(st.integers(0, 30), max_size=2, unique=True))
def test_hamming_corrects_one_error_and_finds_two(bits: int, value: int, places: list[int]) -> None:
    code = Hamming(bits)
    value %= 1 << bits
    word = code.encode(np.array([value]))
    errors = {place % code.length for place in places}
    for place in errors:
        word = word ^ (1 << place)
    found, usable = code.decode(word)
    assert usable[0] == (len(errors) < 2)
    if usable[0]:
        assert found[0] == value


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.data())
def test_one_error_anywhere_in_the_spare_area_changes_nothing(seed: int, data: st.DataObject) -> None:
    values = page(seed)
    spare = CODE.encode(values)
    spare[0, data.draw(st.integers(0, CODE.spare_bits - 1))] ^= 1
    assert (CODE.decode(values, spare) == values).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 4), st.integers(1, 255))
def test_an_outlier_comes_back_whatever_happened_to_its_byte(seed: int, which: int, damage: int) -> None:
    values = page(seed)
    spare = CODE.encode(values)
    damaged = values.copy()
    damaged.view(np.uint8)[0, protected(values)[which]] ^= damage
    assert (CODE.decode(damaged, spare) == values).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.02))
def test_what_is_not_protected_never_exceeds_the_smallest_that_is(seed: int, rate: float) -> None:
    values = page(seed)
    spare = CODE.encode(values)
    out = CODE.decode(flip_values(values, rate, np.random.default_rng(seed)), spare)
    kept = protected(values)
    least = np.abs(values[0, kept].astype(int)).min()
    assert np.abs(np.delete(out[0], kept).astype(int)).max() <= least
    assert (out[0, kept] == values[0, kept]).all()


def test_a_page_of_the_published_size_keeps_one_in_a_hundred_in_its_spare_area() -> None:
    assert OutlierECC().kept == 163
    assert OutlierECC().spare_bits / 8 <= 1664


def test_flips_come_at_their_rate_and_again_for_a_seed() -> None:
    bits = np.zeros(200_000, np.uint8)
    found = [flip(bits, 0.01, np.random.default_rng(3)) for _ in range(2)]
    assert (found[0] == found[1]).all()
    assert abs(found[0].mean() - 0.01) < 0.002
    with pytest.raises(BadInput, match="between 0 and 1"):
        flip(bits, 1.5, np.random.default_rng(0))


def test_bad_pages_are_refused() -> None:
    with pytest.raises(BadInput, match="-128"):
        CODE.encode(np.full((1, 256), -128, np.int8))
    with pytest.raises(BadInput, match="int8"):
        CODE.encode(np.zeros((1, 256), np.int16))
    with pytest.raises(BadInput, match="even number"):
        OutlierECC(7)
    with pytest.raises(BadInput, match="protected"):
        OutlierECC(64, 65)
    with pytest.raises(BadInput, match="spare areas"):
        CODE.decode(page(0), np.zeros((1, 3), np.uint8))
